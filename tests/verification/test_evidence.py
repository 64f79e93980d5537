"""What likelihood ratios are worth, against the values of lir 1.3.1 (Netherlands Forensic Institute) and by hand."""

import numpy as np
import pytest
from scored_cases import clustered_case

from dcal_core.verification.calibrating import cllr_cal_estimate, cllr_estimate, cllr_min_estimate
from dcal_core.verification.evidence import (
    PRIORS,
    bold_share,
    cross_entropy,
    deviation,
    devpav_estimate,
    levels_of,
    misleading,
)
from dcal_core.verification.evidence_plots import draw_evidence

# `by_lir(*drawn_ratios()[:2])`, of lir 1.3.1 with numpy 2.4.6. lir is no requirement, since it brings optuna along:
# `pip install lir==1.3.1` and `pytest -m faults tests/verification/test_evidence.py` compute them anew.
LIR = {
    "cllr": 0.5384402774920782,
    "cllr_min": 0.42942147899276883,
    "cllr_cal": 0.1090187984993094,
    "devpav": 0.3055385887594736,
}


def by_lir(llr, genuine):
    """The same four figures by lir, which takes ratios as log10; the test is skipped where it is not installed."""
    metrics = pytest.importorskip("lir.metrics", reason="lir is not installed: pip install lir==1.3.1")
    models = pytest.importorskip("lir.data.models")
    devpav = pytest.importorskip("lir.metrics.devpav")
    log10 = llr / np.log(10)
    data = models.LLRData(features=log10, labels=genuine.astype(int))
    costs = {name: getattr(metrics, name)(data) for name in ("cllr", "cllr_min", "cllr_cal")}
    return costs | {"devpav": devpav.devpav(log10, genuine.astype(int))}


def drawn_ratios(seed=5):
    """Ratios of 40 genuine and 60 impostor pairs, of log10 with three decimals, in 50 families."""
    random = np.random.default_rng(seed)
    log10 = np.concatenate([random.normal(1.6, 1.5, 40), random.normal(-1.2, 1.5, 60)]) / 2
    return np.round(log10, 3) * np.log(10), np.arange(100) < 40, np.tile(np.arange(50), 2)


@pytest.mark.faults
def test_lir_gives_these_figures_today_too():
    assert by_lir(*drawn_ratios()[:2]) == pytest.approx(LIR)
    for seed in range(5):
        llr, genuine, family = drawn_ratios(seed)
        case = llr, genuine, family, 2
        ours = {
            "cllr": cllr_estimate(*case)["value"],
            "cllr_min": cllr_min_estimate(*case)["value"],
            "cllr_cal": cllr_cal_estimate(llr, *case)["value"],
            "devpav": devpav_estimate(*case)["value"],
        }
        assert ours == pytest.approx(by_lir(llr, genuine))


def test_costs_and_devpav_are_those_of_lir():
    llr, genuine, family = drawn_ratios()
    options = {"draws": 20}
    assert cllr_estimate(llr, genuine, family, **options)["value"] == pytest.approx(LIR["cllr"])
    assert cllr_min_estimate(llr, genuine, family, **options)["value"] == pytest.approx(LIR["cllr_min"])
    found = cllr_cal_estimate(llr, llr, genuine, family, **options)
    assert found["value"] == pytest.approx(LIR["cllr_cal"]) and found["low"] < found["value"] < found["high"]
    found = devpav_estimate(llr, genuine, family, **options)
    assert found["value"] == pytest.approx(LIR["devpav"]) and found["low"] < found["value"] < found["high"]


def test_devpav_by_hand():
    assert deviation(np.array([0.0, 2.0]), np.array([1.0, 1.0])) == 0.5  # two triangles of 1/2 over a range of 2
    assert deviation(np.array([0.0, 2.0]), np.array([0.5, 2.5])) == 0.5
    assert deviation(np.array([1.0]), np.array([0.0])) == 1 and np.isnan(deviation(np.array([]), np.array([])))
    assert deviation(np.array([-1.0, 1.0]), np.array([-1.0, 1.0])) == 0


def test_devpav_of_bold_ratios_is_larger_and_of_separated_ones_undefined():
    scores, genuine, family = clustered_case(families=60, each=20, apart=2, spread=0.0)
    true = 2 * scores - 2  # unit variances, means of 0 and 2
    fair, bold = (devpav_estimate(llr, genuine, family, draws=30) for llr in (true, 3 * true))
    assert fair["value"] < 0.2 < bold["low"]
    assert devpav_estimate(np.where(genuine, 1.0, -1.0), genuine, family, draws=5)["value"] is None


def test_where_ratios_are_too_bold():
    levels = np.array([-2.0, -1.0, 1.0, 2.0])
    assert bold_share(levels, levels / 2) == 1 and bold_share(levels, 2 * levels) == 0
    levels = np.linspace(-2, 2, 401)
    assert bold_share(levels, levels + 1) == pytest.approx(1 / 2, abs=0.01)


def test_misleading_ratios_are_counted_on_both_sides():
    llr = [1.0, -1.0, 2.0, 3.0, 0.0, -2.0, -1.0, -3.0]
    found = misleading(llr, [1, 1, 1, 1, 0, 0, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3], draws=20)
    assert found["one_person"]["value"] == found["impostors"]["value"] == 0.25


def test_cross_entropy_at_even_odds_is_cllr_and_none_is_the_entropy_of_the_prior():
    llr, genuine, family = drawn_ratios()
    found = cross_entropy(llr, genuine)
    even = list(PRIORS).index(0)
    assert found["ratios"][even] == pytest.approx(cllr_estimate(llr, genuine, family, draws=1)["value"])
    assert found["best"][even] == pytest.approx(cllr_min_estimate(llr, genuine, family, draws=1)["value"])
    share = 1 / (1 + 10**-PRIORS)
    np.testing.assert_allclose(found["none"], -share * np.log2(share) - (1 - share) * np.log2(1 - share))
    assert (np.array(found["best"]) <= np.array(found["ratios"]) + 1e-9).all()


def test_the_tippett_plot_falls_from_all_to_none():
    llr, genuine, family = drawn_ratios()
    figures = draw_evidence(llr, genuine, family, np.ones(100), "SYNTHETIC")
    assert set(figures) == {"tippett", "pav", "ece"}
    for figure in figures.values():
        assert "SYNTHETIC" in figure.axes[0].get_title() and "50 families" in figure.axes[0].get_title()
    same, other, _ = figures["tippett"].axes[0].lines
    for line, part in ((same, genuine), (other, ~genuine)):
        x, y = line.get_data()
        assert y[0] == 100 and y[-1] == 0 and (np.diff(y) <= 1e-9).all()
        at = np.searchsorted(x, 0.0) - 1  # the step that ends beyond 0 has the share of those above
        assert y[at + 1] == pytest.approx(100 * np.mean(levels_of(llr)[part] > x[at + 1]), abs=1e-6)
