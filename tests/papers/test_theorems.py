"""The theorems: every statement holds, the exact solver tells true from false, and its certificates are exact."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nsrlib import create_model
from nsrlib.ops.adder2d import adder2d, adder2d_ref
from nsrlib.papers.addersr import filters, theorems
from nsrlib.papers.addersr.filters import dc_audit, dc_response, dc_slope, difference_filters
from nsrlib.papers.addersr.theorems import solve_filter
from nsrlib.papers.check import Check, table


@pytest.fixture(scope="module")
def checks() -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for c in [*theorems.theorem1(steps=400), *theorems.theorem2(), *theorems.power_activation_checks()]:
        found.setdefault(c.id, []).append(c)
    return found


def test_every_statement_holds(checks):
    assert [str(c) for group in checks.values() for c in group if not c.holds] == []
    proved = {name for name, group in checks.items() if group[0].how == "proved"}
    assert proved == {"T1", "T1 exact", "T1 any D", "T1 shortcut", "T1 two values"} | {
        f"T2 {name}" for name in ("odd", "even", "conv", "difference")
    }


def test_the_figures_are_those_of_the_specification(checks):
    rise = checks["T1a"][0].figures
    assert [rise[k] for k in ("inside", "edge", "corner")] == pytest.approx([-36, -24, -16], abs=1e-11)
    assert checks["T1b"][0].figures == {"entries": 3 * 3 * 25, "+-1": 3 * 27}
    assert [c.figures["error"] for c in checks["T1c"]] == ["0", "0", "0"]
    fits = checks["T1d"][0].figures
    assert (fits["conv"], fits["x + bn(adder)"]) == ("< 0.01", "< 0.01")
    assert [float(fits[k]) for k in ("adder", "x + adder")] == pytest.approx([12.6, 12.6], abs=0.4)
    assert float(fits["adder + bn"]) == pytest.approx(0.72, abs=0.05)
    assert f"{theorems.unexplained_variance(9):.2f}" == "0.74"
    assert theorems.unexplained_variance(576) == pytest.approx(0.994, abs=0.002)
    assert checks["T1 size"][0].figures == {"D": 576, "mean": "-460", "std": "15"}
    assert checks["T2a"][0].figures["slope"] == -16
    assert checks["T2b"][0].figures == {"|s| <= 3": -12, "s = 5": -20}


def test_a_check_that_fails_says_so():
    c = Check("T9", "two is three", "checked", False, {"error": 1.0})
    assert str(c) == "T9 FAILS: two is three (error 1)"
    (row,) = table([c]).to_dict("records")
    assert row == {"id": "T9", "statement": "two is three", "how": "checked", "holds": False, "figures": "error 1"}


# --- the exact solver -------------------------------------------------------------------------------------------------


def answer(weights, window):
    return -sum(abs(Fraction(v) - w) for v, w in zip(window, weights, strict=True))


@settings(max_examples=15)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=2), st.data())
def test_what_a_filter_does_is_found_to_be_possible(halves, data):
    hidden = [Fraction(h, 2) for h in halves]
    pixel = st.integers(-2, 2)
    windows = data.draw(st.lists(st.tuples(pixel, pixel), min_size=1, max_size=5, unique=True))
    targets = [2 * answer(hidden, x) for x in windows]
    # whole targets: twice the filter's answer is p times it with p = 1/2
    found = solve_filter(windows, [int(t) for t in targets], free_slope=True)
    assert found.weights is not None
    for x, t in zip(windows, targets, strict=True):
        assert answer(found.weights, x) == found.slope * t + found.offset


@settings(max_examples=15)
@given(st.lists(st.integers(-8, 2), min_size=4, max_size=4))
def test_the_solver_agrees_with_a_search_over_a_fine_grid(targets):
    # whole pixels and targets, two taps: if there is a solution there is one in halves (all cells have such corners
    # or reach beyond the pixels by no more than the largest target)
    windows = list(itertools.product((0, 1), repeat=2))
    found = solve_filter(windows, targets)
    grid = [Fraction(k, 4) for k in range(-36, 41)]
    exists = any(
        all(answer(w, x) == t for x, t in zip(windows, targets, strict=True)) for w in itertools.product(grid, repeat=2)
    )
    assert (found.weights is not None) == exists


def test_one_wrong_target_makes_it_impossible():
    windows = [(v,) for v in range(-3, 4)]
    possible = [-abs(v - 1) for (v,) in windows]
    assert solve_filter(windows, possible).weights == (1,)
    for k in range(len(windows)):
        wrong = [t - (i == k) for i, t in enumerate(possible)]
        if k:  # the first may still be met by no filter either; the rest break a line of three
            assert solve_filter(windows, wrong).weights is None


@pytest.mark.parametrize("taps", [1, 2, 3])
def test_the_identity_needs_one_tap_or_two_values(taps):
    windows = list(itertools.product((-2, -1, 0), repeat=taps))
    target = [x[0] for x in windows]
    exact = solve_filter(windows, target, free_slope=True, free_offset=True)
    assert (exact.weights is not None) == (taps == 1)
    assert taps == 1 or exact.cells == 4**taps
    if taps > 1:
        two = [x for x in windows if 0 not in x]
        assert solve_filter(two, [x[0] for x in two], free_offset=True).weights is not None


def test_a_false_certificate_does_not_pass(monkeypatch):
    class Liar:
        fun, status, message = -1.0, 0, ""

        def __init__(self, n):
            self.x = [0.5] * n

    monkeypatch.setattr(theorems, "linprog", lambda cost, **_: Liar(len(cost)))
    with pytest.raises(ArithmeticError, match="the multipliers that shall show infeasibility are not exact"):
        solve_filter([(0,), (1,)], [-1, 0])
    Liar.fun = 0.0
    with pytest.raises(ArithmeticError, match="the solution is not exact"):
        solve_filter([(0,), (1,)], [-1, 0])


def test_windows_and_targets_must_fit():
    with pytest.raises(ValueError, match="windows must be equally long, one target each; got 2 and 1"):
        solve_filter([(0,), (1,)], [0])
    with pytest.raises(ValueError, match="windows must be equally long"):
        solve_filter([(0,), (1, 2)], [0, 0])


# --- constant images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 1, 1, 1), (3, 2, 3, 3), (4, 3, 2, 2)], ids=str)
def test_the_response_is_the_operators_on_constant_images(shape):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(*shape, generator=g, dtype=torch.float64)
    levels = torch.linspace(-3, 3, 13, dtype=torch.float64)
    images = levels[:, None, None, None].expand(-1, *shape[1:])
    torch.testing.assert_close(dc_response(w, levels), adder2d_ref(images, w)[..., 0, 0].T, rtol=0, atol=1e-12)
    slope = (dc_response(w, levels + 1e-6) - dc_response(w, levels)) / 1e-6
    torch.testing.assert_close(slope, dc_slope(w, levels).double(), rtol=0, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_the_slope_has_the_parity_of_the_taps_and_only_falls(taps, seed):
    w = torch.randn(2, taps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    slope = dc_slope(w, torch.linspace(-5, 5, 50, dtype=torch.float64))
    assert (slope.remainder(2) == taps % 2).all()
    assert (slope.diff() <= 0).all()
    assert slope[:, 0].eq(taps).all()
    assert slope[:, -1].eq(-taps).all()


@pytest.mark.parametrize("bound", [1.0, 2.5])
def test_the_difference_of_two_adders_is_any_ternary_convolution(bound):
    g = torch.Generator().manual_seed(0)
    taps = torch.randint(-1, 2, (2 * 9,), generator=g).tolist()
    plus, minus = (w.view(1, 2, 3, 3) for w in difference_filters(taps, bound))
    x = (2 * torch.rand(2, 2, 7, 6, generator=g, dtype=torch.float64) - 1) * bound
    wanted = F.conv2d(x, torch.tensor(taps).double().view(1, 2, 3, 3))
    half = (adder2d(x, plus) - adder2d(x, minus)) / 2
    torch.testing.assert_close(half, wanted, rtol=0, atol=1e-12)
    assert (half - wanted).abs().max() < (adder2d(2 * x, plus) - adder2d(2 * x, minus) - 4 * wanted).abs().max()
    with pytest.raises(ValueError, match=r"taps must be of -1, 0, 1, got \[2\]"):
        difference_filters([2], 1)


def test_the_audit_measures_slopes_over_the_range_that_a_layer_sees():
    torch.manual_seed(0)
    model = create_model("addersr_vdsr", 2, num_feats=4, num_layers=4).eval()
    first = model.body[0].adder
    with torch.no_grad():
        first.weight[0] = 100.0  # above everything: slope D
        first.weight[1] = -100.0
        first.weight[2, :2], first.weight[2, 2:] = 100.0, -100.0  # half and half: a high-pass
    x = torch.rand(2, 1, 9, 8)
    audit = dc_audit(model, [x])
    assert len(audit) == 2 * 4
    assert set(audit["layer"]) == {"body.0.adder", "body.1.adder"}
    rows = audit[audit["layer"] == "body.0.adder"].set_index("filter")
    assert rows["slope"][:3].to_list() == pytest.approx([1, -1, 0], abs=1e-9)
    assert rows["steepest"][:3].to_list() == [1, 1, 0]
    assert rows["inside"][:3].to_list() == [0, 0, 0]
    assert (audit["slope"].abs() <= audit["steepest"] + 1e-9).all()
    low, high = rows["low"][3], rows["high"][3]
    r = dc_response(first.weight[3:4].detach().double(), torch.tensor([low, high], dtype=torch.float64))
    assert rows["slope"][3] == pytest.approx(float(r[0, 1] - r[0, 0]) / (high - low) / 36)


def test_traces_follow_an_image_through_all_units():
    torch.manual_seed(0)
    model = create_model("addersr_vdsr", 2, num_feats=4, num_layers=4)
    x = torch.rand(1, 1, 9, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = filters.unit_traces(model, x)
    assert list(seen) == ["body.0", "body.1"]
    assert list(seen["body.0"]) == ["input", "adder", "bn", "shortcut", "relu", "power"]
    assert torch.equal(seen["body.1"]["input"], seen["body.0"]["power"])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # normalisation learnt nothing
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_correlation_is_that_of_numpy_and_unknown_for_constant_maps():
    a = torch.rand(2, 3, 5, 7)
    b = torch.stack([-2 * a[:, 0] + 1, a[:, 1] + torch.rand(2, 5, 7), torch.ones(2, 5, 7)], 1)
    r = filters.correlation(a, b)
    assert r[0] == pytest.approx(-1)
    assert r[1] == pytest.approx(np.corrcoef(a[:, 1].flatten(), b[:, 1].flatten())[0, 1])
    assert r[2].isnan()


def test_the_laplacian_share_is_0_for_ramps_1_for_a_checkerboard_and_5_16_for_noise():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    maps = {"flat": torch.ones(64, 48), "ramp": 2 * x - y, "checkerboard": (x + y) % 2}
    share = {name: filters.laplacian_share(m.expand(1, 2, -1, -1)) for name, m in maps.items()}
    assert share == pytest.approx({"flat": 0, "ramp": 0, "checkerboard": 1}, abs=1e-6)
    noise = torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(0))
    assert filters.laplacian_share(noise) == pytest.approx(5 / 16, rel=0.02)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="VDSR has no adder units to look into"):
        filters.unit_traces(create_model("vdsr", 2, num_feats=4, num_layers=3), torch.rand(1, 1, 5, 5))
    with pytest.raises(ValueError, match="VDSR has no adder layers to audit"):
        dc_audit(create_model("vdsr", 2, num_feats=4, num_layers=3), [])
    with pytest.raises(ValueError, match="images is empty"):
        dc_audit(create_model("addersr_vdsr", 2, num_feats=4, num_layers=3), [])
