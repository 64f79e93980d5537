"""Rows on QAConv: its matrix product beside the machine's own and beside a loop over pairs, and its memory."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.memory import peak_above
from benchmarks.speed.subjects import Setting
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.models.qaconv import QAConv

CHANNELS, PLACES = 512, 49  # of the last map of an IR network
TIMED = 8  # times fewer faces than in the row on memory
PRODUCT_SIDE = {"cuda": 8192, "cpu": 1024}
SAMPLED_PAIRS = 64  # that the loop goes through
SHARE_GOAL = 60  # % of the speed of a large matrix product
MOST_MB = 1000


def faces(count: int, device: str, seed: int) -> Tensor:
    """Random places of unit length, [count, CHANNELS, PLACES]."""
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, CHANNELS, PLACES, generator=random), dim=1).to(device)


def pair_by_pair(matcher: QAConv, a: Tensor, b: Tensor) -> Tensor:
    """The logits of faces a with faces b, one pair at a time, each by a matrix product."""
    logits = []
    for one, other in zip(a, b, strict=True):
        correlations = one.T @ other  # [P, P]
        matches = torch.stack([correlations.amax(1), correlations.amax(0)])  # [2, P]
        total = matcher.fc(matcher.bn(matches[:, None])).sum().view(1, 1)
        logits.append(matcher.logit_bn(total))
    return torch.cat(logits)[:, 0]


@torch.inference_mode()
def matching_rows(setting: Setting) -> Iterator[Row]:
    """All rows."""
    matcher = QAConv(PLACES).eval().to(setting.device)
    a, b = (faces(setting.matched, setting.device, seed) for seed in (0, 1))
    count = max(2, setting.matched // TIMED)
    x, y = a[:count], b[:count]
    looped = x[:SAMPLED_PAIRS], y[:SAMPLED_PAIRS]
    visible = torch.rand(count, PLACES, device=setting.device)
    square = torch.randn(PRODUCT_SIDE[setting.device], PRODUCT_SIDE[setting.device], device=setting.device)
    expected = matcher(*looped).diagonal()
    torch.testing.assert_close(pair_by_pair(matcher, *looped), expected, atol=1e-4, rtol=1e-4)
    works = {
        "plain": lambda: matcher(x, y),
        "by visibility": lambda: matcher(x, y, visible, visible),
        "product": lambda: square @ square,
        "pair by pair": lambda: pair_by_pair(matcher, *looped),
    }
    seconds = alternate(works, setting.repeats, setting.wait)
    own = 2 * len(square) ** 3 / seconds["product"]  # FLOP/s
    work = 2 * count**2 * PLACES**2 * CHANNELS  # FLOP
    note = f"of {Spread.of(own).median / 1e9:.3g} GFLOP/s in a product of side {len(square)}"
    for kind in ("plain", "by visibility"):
        share = Spread.of(100 * work / seconds[kind] / own)
        yield Row(f"QAConv {kind}, share of matrix speed", share, "%", goal=SHARE_GOAL, at_least=True, note=note)
    seconds["pair by pair"] *= count**2 / len(looped[0])
    note = f"arithmetic: at most {Spread.of(seconds['pair by pair'] / work * own).median:.3g}, at matrix speed"
    name = f"QAConv, {count} x {count} faces: pair by pair / all with all"
    yield ratio(name, seconds, "pair by pair", "plain", goal=20, at_least=True, note=note)
    peak = peak_above(setting.device, lambda: matcher(a, b)) / 1e6
    yield Row(f"QAConv, {len(a):,} x {len(b):,} faces: memory", Spread.of(peak), "MB", goal=MOST_MB)
