import json
import math
import mmap

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import verifying
from benchmarks.speed.__main__ import main
from benchmarks.speed.costs import Shape
from benchmarks.speed.memory import forked, peak_above
from benchmarks.speed.naive import NaiveDCAL, naive_block
from benchmarks.speed.timing import Row, Spread, alternate, ratio
from dcal_core.models.dcal import DCAL

SIZE, PATCHES, WIDTH, DEPTH = 32, 16, 32, 3
MIB = 2**20


def make_vit(**options):
    torch.manual_seed(0)
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**sizes | options)


def make_model(readout="cls", pwca_layers=range(DEPTH), **options):
    """A small DCAL whose weights are large enough that every part shows in the result."""
    vit = make_vit(**options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return DCAL(vit=vit, image_size=SIZE, mean=mean, std=std, pwca_layers=pwca_layers, readout=readout)


# Timing


class Clock:
    """Time passes only where a work says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, log, name, seconds):
        seconds = iter(seconds)

        def run():
            log.append(name)
            self.now += next(seconds)

        return run


def test_works_take_turns_and_warm_up_uncounted():
    clock, log = Clock(), []
    works = {"a": clock.work(log, "a", [100, 2, 4, 9]), "b": clock.work(log, "b", [100, 1, 1, 3])}
    seconds = alternate(works, repeats=3, warmups=1, clock=clock)
    assert log == ["a", "b"] * 4
    assert seconds["a"].tolist() == [2, 4, 9] and seconds["b"].tolist() == [1, 1, 3]


def test_waiting_for_the_device_counts_as_work():
    clock, queue = Clock(), []

    def wait():
        clock.now += sum(queue)
        queue.clear()

    seconds = alternate({"a": lambda: queue.append(5.0)}, repeats=2, wait=wait, clock=clock)
    assert seconds["a"].tolist() == [5, 5]


def test_a_ratio_is_the_median_over_rounds_so_that_a_slow_machine_cancels_out():
    seconds = {
        "a": np.array([2.0, 20.0, 3.0]),
        "b": np.array([1.0, 10.0, 1.0]),
    }  # the second round ran ten times slower
    row = ratio("a / b", seconds, "a", "b", goal=2.0)
    assert row.figure == Spread(2.0, 2.0, 2.5)
    assert row.parts["a"].median == 3.0 and row.parts["b"].median == 1.0


@pytest.mark.parametrize(
    "goal, at_least, met", [(2.0, False, True), (1.9, False, False), (2.0, True, True), (2.1, True, False)]
)
def test_goals(goal, at_least, met):
    assert Row("", Spread.of(2.0), goal=goal, at_least=at_least).met is met
    assert Row("", Spread.of(2.0)).met is None


# The naive DCAL


@pytest.mark.parametrize("readout", ["cls", "tokens"])
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2, "init_values": 0.1}, {"qk_norm": True, "pre_norm": True}])
@pytest.mark.parametrize("pwca_layers", [range(DEPTH), range(1, 2)])
def test_the_naive_dcal_gives_the_same_embeddings(readout, options, pwca_layers):
    model = make_model(readout, pwca_layers, **options)
    images, partner = torch.rand(4, 3, SIZE, SIZE), torch.tensor([2, 3, 1, 0])
    ours, naive = model.train()(images, partner), NaiveDCAL(model)(images, partner)
    assert ours.keys() == naive.keys() == {"sa", "glca", "pwca"}
    for branch in ours:
        torch.testing.assert_close(naive[branch], ours[branch], atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        ours, naive = model.eval().encode(images).parts, NaiveDCAL(model).encode(images).parts
    assert ours.keys() == naive.keys() == {"sa", "glca"}
    for branch in ours:
        torch.testing.assert_close(naive[branch], ours[branch], atol=1e-4, rtol=1e-4)


def test_the_naive_dcal_gives_the_same_gradients():
    model = make_model()
    images, partner = torch.rand(4, 3, SIZE, SIZE), torch.tensor([2, 3, 1, 0])
    gradients = []
    for variant in (model, NaiveDCAL(model)):
        parts = variant.train()(images, partner)
        sum((part * torch.linspace(-1, 1, part.numel()).view_as(part)).sum() for part in parts.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-3)


# Costs and memory


def count_macs(work):
    """Multiplications by PyTorch's own count, which on a CPU knows attention only where it is not fused."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops() // 2


def test_multiplications_of_the_plain_vit_are_those_that_pytorch_counts():
    vit = make_vit()
    assert Shape.of(vit, local_ratio=0.3).plain() == count_macs(lambda: vit(torch.rand(1, 3, SIZE, SIZE)))


def test_multiplications_of_a_block_are_those_that_pytorch_counts():
    block, tokens, other = make_vit().blocks[0], PATCHES + 1, torch.tensor([0])
    shape, x = Shape.of(make_vit(), local_ratio=0.3), torch.rand(1, tokens, WIDTH)
    assert shape.block(tokens, tokens) == count_macs(lambda: naive_block(block, x))
    assert shape.block(tokens, 2 * tokens) == count_macs(lambda: naive_block(block, x, other))


def test_dcal_multiplies_hardly_more_than_it_must():
    model, images = make_model(), torch.rand(2, 3, SIZE, SIZE)
    shape = Shape.of(model.vit, local_ratio=0.3)
    assert count_macs(lambda: model.encode(images)) <= 1.1 * 2 * shape.encoding()
    forward = shape.encoding() + shape.pair_wise()
    assert count_macs(lambda: model(images, torch.tensor([1, 0]))) <= 1.05 * 2 * forward


def test_the_limits_of_vit_base():
    shape = Shape(tokens=197, patches=196, width=768, depth=12, hidden=3072, pixels=768, local_ratio=0.3)
    assert shape.plain() / 1e9 == pytest.approx(17.6, abs=0.05)
    assert shape.training() / (3 * shape.plain()) == pytest.approx(2.00, abs=0.005)  # 2.07 with all rows of PWCA
    assert shape.encoding() / shape.plain() == pytest.approx(1.05, abs=0.005)


def block(mib):
    """Memory from the system itself: malloc might give what an earlier test has left."""
    array = np.frombuffer(mmap.mmap(-1, mib * MIB), np.uint8)
    array[:] = 1
    return array


def three_blocks():
    """64 MiB for a while, then 96 and 32 at once: 128 at most."""
    for sizes in ([64], [96, 32]):
        held = [block(size) for size in sizes]
        del held


def test_peak_memory_is_what_is_held_at_once():
    assert forked(peak_above, "cpu", three_blocks) / MIB == pytest.approx(128, abs=4)


# The command


def test_the_command_writes_all_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verifying, "write_quick", lambda *_: None)  # takes seconds
    assert main(["--quick", "--output", str(tmp_path / "bench.json")]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["device"] and report["torch"] == torch.__version__ and report["setting"]["backbone"] == "test_vit"
    figures = {row["name"]: row["figure"] for row in report["rows"]}
    for name, figure in figures.items():  # memory that was free in the process already may serve the comparisons
        least = 0 if name == "comparing 8,000 images: memory" else 1e-12
        assert math.isfinite(figure["median"]) and figure["median"] >= least, name
    with_goals = [row for row in report["rows"] if row["goal"] is not None]
    assert len(with_goals) >= 8 and all(row["met"] in (True, False) for row in with_goals)
    printed = capsys.readouterr().out
    assert all(name in printed for name in figures)


@pytest.mark.parametrize("given", [["--batch", "6"], ["--batch", "0"], ["--repeats", "0"]])
def test_impossible_sizes_are_refused(given, capsys):
    with pytest.raises(SystemExit):
        main(given)
    assert "multiple of 4" in capsys.readouterr().err
