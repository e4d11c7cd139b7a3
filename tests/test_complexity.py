"""Parameters and multiply-adds against printed and separately counted numbers."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsrlib import create_model
from nsrlib.complexity import (
    DRAM_BYTE,
    PIXELS_720P,
    RULES,
    count,
    energy,
    energy_breakdown,
    lr_size,
)


def in_g(value: int, digits: int = 3) -> str:
    return f"{value / 1e9:.{digits}f}"


@pytest.mark.parametrize(
    ("name", "scale", "params", "macs", "thop"),
    [
        ("bsrn", 2, 331_628, "71.935", "72.995"),
        ("bsrn", 3, 340_283, "32.804", "33.275"),
        ("bsrn", 4, 352_400, "19.177", "19.444"),
        ("bsrn_s", 4, 156_288, "8.288", "8.346"),
        ("rfdn", 4, 433_448, "23.759", "23.918"),
        ("imdn_ntire22", 4, 893_936, "51.355", "51.579"),
    ],
)
def test_networks_of_the_comparison_have_their_counts_at_1280x720(name, scale, params, macs, thop):
    model = create_model(name, scale)
    plain = count(model)
    assert plain.rule == "macs"
    assert (plain.params, in_g(plain.multi_adds)) == (params, macs)
    assert in_g(count(model, rule="thop").multi_adds) == thop


@pytest.mark.parametrize(
    ("name", "scale", "config", "operations"),
    [
        ("bsrn", 2, {}, 72_994_671_392),
        ("bsrn", 3, {}, 33_275_330_880),
        ("bsrn", 4, {}, 19_444_036_384),
        ("bsrn", 4, {"conv": "bsconv_s"}, 16_168_891_168),
        ("bsrn", 4, {"esa": False, "cca": False}, 18_158_284_800),
        ("imdn_ntire22", 4, {}, 51_579_187_200),
        ("rfdn", 4, {}, 23_918_083_920),
        ("rfdn", 4, {"conv": "dsconv"}, 6_937_227_360),
        ("rfdn", 4, {"conv": "bsconv_s"}, 5_958_442_656),
        ("rfdn", 4, {"conv": "bsconv_u"}, 6_931_725_984),
    ],
    ids=str,
)
def test_the_thop_rule_counts_what_thop_0_0_31_itself_returned(name, scale, config, operations):
    assert count(create_model(name, scale, **config), rule="thop").multi_adds == operations


@pytest.mark.parametrize(("scale", "printed"), [(2, "332 K / 73.0 G"), (3, "340 K / 33.3 G"), (4, "352 K / 19.4 G")])
def test_the_papers_cells_are_those_of_thop(scale, printed):
    c = count(create_model("bsrn", scale), rule="thop")
    assert f"{c.params / 1e3:.0f} K / {c.multi_adds / 1e9:.1f} G" == printed


@pytest.mark.parametrize(
    ("name", "flops", "activations", "convs"),
    [
        ("imdn_ntire22", "58.532", "154.141", 43),
        ("rfdn", "27.103", "112.034", 64),
        ("bsrn_s", "2.022", "65.758", 43),
        ("bsrn", "21.820", "404.961", 206),
    ],
)
def test_the_challenges_own_code_is_reproduced_at_256x256(name, flops, activations, convs):
    for config in [{}, {"as_linear": True}] if name == "bsrn_s" else [{}]:
        c = count(create_model(name, 4, **config), (256, 256), rule="challenge")
        assert (in_g(c.multi_adds), f"{c.activations / 1e6:.3f}", c.convs) == (flops, activations, convs)


def test_the_challenges_table_printed_another_rule_for_bsrn_s_and_overlooked_its_linear_layers():
    model = create_model("bsrn_s", 4)
    thop, macs, challenge = (count(model, (256, 256), rule=rule) for rule in ("thop", "macs", "challenge"))
    assert (in_g(thop.multi_adds, 2), in_g(thop.multi_adds), in_g(macs.multi_adds)) == ("9.50", "9.496", "9.430")
    assert f"{macs.activations / 1e6:.2f}" == "209.19"
    assert (macs.convs, challenge.convs, macs.convs - challenge.convs) == (121, 43, 78)


@pytest.mark.parametrize(
    ("name", "config", "params", "macs", "thop"),
    [
        ("bsrn", {"esa": False}, 319_888, "17.968", "18.188"),
        ("bsrn", {"cca": False}, 347_760, "19.177", "19.415"),
        ("bsrn", {"esa": False, "cca": False}, 315_248, "17.968", "18.158"),
        ("bsrn", {"conv": "standard"}, 1_352_464, "73.463", "73.730"),
        ("bsrn", {"conv": "dsconv"}, 354_440, "19.194", "19.473"),
        ("bsrn", {"conv": "bsconv_s"}, 292_544, "15.902", "16.169"),
        ("rfdn", {"conv": "standard"}, 433_448, "23.759", "23.918"),
        ("rfdn", {"conv": "dsconv"}, 123_274, "6.775", "6.937"),
        ("rfdn", {"conv": "bsconv_s"}, 105_285, "5.800", "5.958"),
        ("rfdn", {"conv": "bsconv_u"}, 122_744, "6.773", "6.932"),
        ("rfdn", {"num_feats": 48, "num_blocks": 6}, 581_952, "31.720", None),
        ("rfdn", {"num_feats": 48, "num_blocks": 6, "conv": "dsconv"}, 161_166, "8.805", None),
        ("rfdn", {"num_feats": 48, "num_blocks": 6, "conv": "bsconv_s"}, 135_417, "7.414", None),
        ("rfdn", {"num_feats": 48, "num_blocks": 6, "conv": "bsconv_u"}, 160_176, "8.791", None),
        ("bsrn", {"num_feats": 50, "num_blocks": 4}, 124_606, "6.799", "6.909"),
        ("bsrn", {"num_feats": 48, "num_blocks": 6}, 162_642, "8.816", "8.969"),
        ("bsrn", {"num_feats": 64, "num_blocks": 10}, 432_024, "23.487", "23.817"),
        ("bsrn", {"num_feats": 72, "num_blocks": 8}, 437_624, "23.898", "24.198"),
        ("bsrn", {"num_feats": 100, "num_blocks": 4}, 433_872, "23.862", "24.080"),
        ("bsrn", {"num_feats": 84, "num_blocks": 6}, 449_520, "24.621", "24.887"),
    ],
    ids=str,
)
def test_ablation_variants_have_their_counts_at_1280x720(name, config, params, macs, thop):
    model = create_model(name, 4, **config)
    plain = count(model)
    assert plain.rule == "macs"
    assert (plain.params, in_g(plain.multi_adds)) == (params, macs)
    if thop:
        assert in_g(count(model, rule="thop").multi_adds) == thop


def test_the_parts_of_bsrn_x4_add_up():
    c = count(create_model("bsrn", 4))
    parts: dict[str, int] = {}
    for layer in c.layers:
        head = layer["name"].split(".")[0]
        parts[head] = parts.get(head, 0) + layer["params"]
    blocks = {f"B{k}": 35_716 for k in range(1, 9)}
    parts = {name: n for name, n in parts.items() if n}
    assert parts == {"fea_conv": 1_408, **blocks, "c1": 32_832, "c2": 4_736, "upsampler": 27_696}
    assert c.multi_adds // (180 * 320) == 332_937
    assert sum(layer["multi_adds"] for layer in c.layers) == c.multi_adds
    assert sum(layer["activations"] for layer in c.layers if layer["type"] == "Conv2d") == c.activations


def parameter_formula(c: int, n: int, s: int) -> int:
    """Section 7.1 of the specification, term by term."""
    f, d, r = c // 4, c // 2, c // 16
    esa = (c * f + f) + (f**2 + f) + 4 * (f**2 + 10 * f) + (f * c + c)
    cca = 2 * c * r + r + c
    block = 3 * (c * d + d) + 3 * (c**2 + 10 * c) + (c * d + 10 * d) + (4 * d * c + c) + esa + cca
    return 22 * c + n * block + (n * c**2 + c) + (c**2 + 10 * c) + 3 * s**2 * (9 * c + 1)


def mac_formula(c: int, n: int, s: int, h: int, w: int) -> int:
    """The same layers without biases, each at its own resolution: ESA shrinks to about a sixth, CCA to one pixel."""
    f, d, r = c // 4, c // 2, c // 16
    strided = ((h - 3) // 2 + 1, (w - 3) // 2 + 1)
    pooled = ((strided[0] - 7) // 3 + 1, (strided[1] - 7) // 3 + 1)
    full = 3 * c * d + 3 * (c**2 + 9 * c) + (c * d + 9 * d) + 4 * d * c + (c * f + f**2 + f**2 + f * c)
    reduced = 9 * f * strided[0] * strided[1] + 3 * (f**2 + 9 * f) * pooled[0] * pooled[1] + 2 * c * r
    outside = 21 * c + n * c**2 + c**2 + 9 * c + 27 * s**2 * c
    return (outside + n * full) * h * w + n * reduced


@settings(max_examples=15)
@given(
    st.integers(8, 48).map(lambda half: 2 * half),
    st.integers(1, 10),
    st.sampled_from([2, 3, 4]),
    st.integers(15, 200),
    st.integers(15, 200),
)
def test_the_closed_formula_holds_for_every_width_and_depth(c, n, s, h, w):
    with torch.device("meta"):
        model = create_model("bsrn", s, num_feats=c, num_blocks=n)
    counted = count(model, (h, w))
    assert counted.params == parameter_formula(c, n, s)
    assert counted.multi_adds == mac_formula(c, n, s, h, w)


def test_the_formula_gives_the_published_network():
    assert parameter_formula(64, 8, 4) == 352_400
    assert in_g(mac_formula(64, 8, 4, 180, 320)) == "19.177"


@pytest.mark.parametrize("rule", RULES)
def test_counting_leaves_the_model_as_it_was(rule):
    model = create_model("bsrn", 2, num_feats=16, num_blocks=1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count(model, (40, 40), rule=rule)
    assert model.training
    assert all(v.device.type == "cpu" and torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_counting_needs_no_memory():
    side, model = 100_000, create_model("imdn_ntire22", 4)
    huge, small = count(model, (side, side)), count(model, (100, 100))
    assert huge.multi_adds == small.multi_adds * (side // 100) ** 2
    assert huge.activations == small.activations * (side // 100) ** 2


def test_counting_many_pixels_at_once_takes_the_papers_input_by_default():
    assert [lr_size(s) for s in (1, 2, 3, 4)] == [(720, 1280), (360, 640), (240, 426), (180, 320)]
    assert lr_size(4, (2160, 3840)) == (540, 960)
    c = count(create_model("bsrn", 3))
    assert c.input_size == (240, 426)
    assert str(c) == "340,283 parameters, 32.804 G multiply-adds (macs, input 426x240)"
    assert c.multiplications == c.additions == c.multi_adds


def test_layers_that_are_called_are_listed_with_what_they_cost():
    layers = {layer["name"]: layer for layer in count(create_model("imdn_ntire22", 4, num_blocks=1), (10, 12)).layers}
    first = layers["model.0"]
    assert first == {
        "name": "model.0",
        "type": "Conv2d",
        "output": (1, 64, 10, 12),
        "params": 27 * 64 + 64,
        "multi_adds": 27 * 64 * 120,
        "activations": 64 * 120,
    }
    assert layers["model.3"]["output"] == (1, 3, 40, 48)


def test_bicubic_has_nothing_to_count():
    c = count(create_model("bicubic", 4))
    assert (c.params, c.multi_adds, c.activations, c.convs) == (0, 0, 0, 0)


def test_an_unknown_rule_and_an_impossible_size_are_refused():
    model = create_model("imdn_ntire22", 4, num_blocks=1)
    with pytest.raises(ValueError, match="rule must be one of macs, thop, challenge, got 'flops'"):
        count(model, rule="flops")
    for size in ((0, 5), 32, (1, 3, 32, 32)):
        with pytest.raises(
            ValueError, match=rf"input_size must be two positive numbers .*, got {re.escape(str(size))}"
        ):
            count(model, size)


@pytest.mark.parametrize("rule", ["macs", "thop", "challenge"])
@pytest.mark.parametrize("name", ["bsrn", "bsrn_s", "rfdn"])
def test_the_layers_add_up_to_the_totals(name, rule):
    result = count(create_model(name), (64, 64), rule=rule)
    assert sum(layer["activations"] for layer in result.layers) == result.activations
    assert sum(layer["multi_adds"] for layer in result.layers) == result.multi_adds


# --- additions, energy ------------------------------------------------------------------------------------------------


def on_meta(name: str, scale: int, **config) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, scale, **config)


def test_a_tap_of_an_adder_is_two_additions_and_no_multiply_add():
    model = create_model("addersr_vdsr", 1, num_feats=6, num_layers=5)
    pixels, taps = 7 * 9, 3 * 6 * 6 * 9
    convs = 2 * 6 * 9
    for rule in RULES:
        c = count(model, (7, 9), channels=1, rule=rule)
        assert c.multiplications == convs * pixels
        assert c.additions == (convs + 2 * taps) * pixels
    c = count(model, (7, 9), channels=1)
    assert c.multi_adds == c.multiplications
    assert c.activations == (3 * 6 + 6 + 1) * pixels
    assert count(model, (7, 9), channels=1, rule="challenge").activations == (6 + 1) * pixels
    difference = create_model("addersr_vdsr", 1, num_feats=6, num_layers=5, layer="difference")
    assert count(difference, (7, 9), channels=1).additions == (convs + 4 * taps) * pixels


def test_the_extras_are_those_of_a_unit():
    model = create_model("addersr_vdsr", 1, num_feats=6, num_layers=5)
    n = 6 * 7 * 9
    assert count(model, (7, 9), channels=1).extras == {
        "bias": (0, n + 63),
        "batch normalisation": (3 * n, 3 * n),
        "self-shortcut": (0, 3 * n),
        "residuals": (0, 63),
        "power activation": (3 * 8 * n, 3 * 8 * n),
        "gates": (0, 0),
    }
    plain = create_model("addersr_vdsr", 1, num_feats=6, num_layers=5, steps="relu")
    extras = count(plain, (7, 9), channels=1).extras
    assert [k for k, v in extras.items() if v != (0, 0)] == ["bias", "residuals"]
    edsr = count(create_model("edsr", 2, num_feats=6, num_blocks=3), (7, 9)).extras
    assert edsr["residuals"] == (3 * n, 4 * n)  # three scaled blocks and the long skip


def test_traffic_is_what_the_working_layers_read_and_write():
    model = create_model("vdsr", 1, num_feats=6, num_layers=3)
    pixels = 7 * 9
    assert count(model, (7, 9), channels=1).traffic == pixels * (1 + 6 + 6 + 6 + 6 + 1) + 60 + 330 + 55


def test_a_square_stands_for_720p_at_every_scale():
    assert PIXELS_720P[0] * PIXELS_720P[1] == 1280 * 720
    assert all(side % s == 0 for side in PIXELS_720P for s in (2, 3, 4))


@pytest.mark.parametrize(
    ("multiplications", "additions", "printed"),
    [(239.3, 239.3, "1100"), (131.0, 300.6, "755.2"), (71.59, 241.2, "482.0"), (112.9, 316.5, "702.6")],
)
def test_the_rule_gives_the_numbers_of_the_sibling_paper(multiplications, additions, printed):
    # G operations and mJ of the detection paper; it prints 702.7 in the last row
    from dataclasses import replace

    c = replace(count(create_model("vdsr", 1, num_feats=2, num_layers=3), (4, 4), channels=1))
    c = replace(c, multiplications=int(multiplications * 1e9), additions=int(additions * 1e9))
    assert energy(c) == pytest.approx(float(printed), rel=1e-3)


def test_the_breakdown_names_what_the_rule_leaves_out():
    size = lr_size(1, PIXELS_720P)
    vdsr, twin = (count(on_meta(name, 1), size, channels=1) for name in ("addersr_vdsr", "vdsr"))
    parts = energy_breakdown(vdsr)
    assert parts["arithmetic"] == energy(vdsr)
    assert f"{parts['batch normalisation']:.1f}" == "4.9"
    assert f"{parts['self-shortcut']:.2f}" == "0.96"
    assert parts["memory"] == vdsr.traffic * 4 * DRAM_BYTE * 1e-9
    assert parts["wide sums"] == 0
    edsr = energy_breakdown(count(on_meta("addersr_edsr", 2), lr_size(2, PIXELS_720P)))
    assert f"{edsr['batch normalisation']:.1f}" == "17.6"
    assert f"{edsr['self-shortcut']:.1f}" == "3.5"
    int8, plain = energy_breakdown(vdsr, "int8"), energy_breakdown(twin, "int8")
    assert int8["power activation"] == 0
    assert int8["memory"] == parts["memory"] / 4
    # one sum a tap in both
    assert int8["wide sums"] == pytest.approx(plain["wide sums"])
    assert plain["wide sums"] == pytest.approx(twin.multiplications * 0.07e-9)
    assert plain["batch normalisation"] == plain["self-shortcut"] == 0


def test_an_unknown_dtype_has_no_price():
    c = count(create_model("vdsr", 1, num_feats=2, num_layers=3), (4, 4), channels=1)
    for f in (energy, energy_breakdown):
        with pytest.raises(ValueError, match="dtype must be one of float32, int8, got 'float16'"):
            f(c, "float16")
