"""Machine code without a GPU: how it is read, and the bars that the operators' kernels are held to."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from nsrlib.bench.audit import TARGETS, Mix, audit, audit_all, entries, innermost_loops
from nsrlib.ops.common import Launch

triton = pytest.importorskip("triton")

# What the compiler's version changes. No spill and no barrier in a hot loop of adder2d is asked of every version.
BARS = {
    # at least this share of useful instructions in the hot loop
    "adder2d forward": {"3.6": 0.77, "3.7": 0.80, "newer": 0.77},
    "adder2d input gradient": {"3.6": 0.70, "3.7": 0.75, "newer": 0.70},
    "adder2d input gradient bfloat16": {"3.6": 0.67, "3.7": 0.70, "newer": 0.67},
    "adder2d int8": {"3.6": 0.56, "3.7": 0.65, "newer": 0.56},
    # at most so many registers, and bytes of stack, a thread
    "bsconv2d registers on gfx942": {"3.6": 296, "3.7": 256, "newer": 256},
    "mixed_conv2d stack on sm_80": {"3.6": 8, "3.7": 0, "newer": 8},
}


def bar(name, version=triton.__version__):
    """What is asked of a kernel compiled by this version of Triton."""
    bars = BARS[name]
    return bars.get(".".join(version.split(".")[:2]), bars["newer"])


SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_0:
        /*0020*/                   FADD.SAT R4, R5, R6 ;
        /*0030*/                   FADD R4, R5, |R6| ;
        /*0040*/               @!P0 LDG.E R7, desc[UR4][R8.64] ;
        /*0050*/               @P1 BRA `(.L_x_0) ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
        /*0090*/                   NOP;
"""

# In a process of its own: kernels decorated under TRITON_INTERPRET cannot be compiled, and this one may have it.
START = """
import json, torch
from nsrlib.bench.audit import TARGETS, audit, audit_all

rows = {}

def meta(*size, dtype=torch.float32, last=False):
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=dtype, device="meta", memory_format=layout)

def add(name, target, launch, *useful):
    found = audit(launch, target)
    hot = found.hot_loop(*useful)
    units = {unit: found.code.count(unit) for unit in ("HMMA", "HGMMA", "UTCHMMA", "v_mfma*")}
    saturated = hot.count("FADD.SAT", "FFMA.SAT")
    rows[f"{name} {target}"] = {**found.row(*useful), **units, "useful": hot.count(*useful), "saturated": saturated}
"""

ADDER = """
from nsrlib.ops.adder2d.launches import backward_launches, forward_launches, int8_launches

def launches(dtype=torch.float32, last=False):
    # many waves: whole tiles
    x, weight = meta(64, 64, 48, 48, dtype=dtype, last=last), meta(64, 64, 3, 3, dtype=dtype)
    x8, weight8, y8 = (t.to(d) for t, d in ((x, torch.int8), (weight, torch.int8), (x, torch.int32)))
    one = (1, 1), (1, 1)
    both, few = (x, x, weight, x, weight, *one), x[:16]
    yield "forward", ["FADD"], forward_launches(x, weight, x, *one)[-1]
    yield "forward half a tile", ["FADD"], forward_launches(few, weight, few, *one)[-1]
    yield "input gradient", ["FADD.SAT", "FFMA"], backward_launches(*both)[2]
    yield "input gradient alone", ["FADD.SAT", "FFMA"], backward_launches(x, x, weight, x, None, *one)[1]
    yield "input sign gradient", ["FSETP"], backward_launches(*both, "sign")[2]
    yield "weight gradient", ["FFMA"], backward_launches(*both)[1]
    yield "weight sign gradient", ["FSETP"], backward_launches(*both, "sign")[1]
    yield "int8", ["VABSDIFF4"], int8_launches(x8, weight8, y8, *one)[-1]
    yield "int8 portable", ["IABS"], int8_launches(x8, weight8, y8, *one, vabsdiff4=False)[-1]

variants = {"": {}, " channels_last": {"last": True}, " bfloat16": {"dtype": torch.bfloat16}}
for variant, options in variants.items():
    for name, useful, launch in launches(**options):
        for target in TARGETS if not variant else ["sm_90"]:
            if target != "gfx942" or name != "int8":  # that is NVIDIA assembly
                add(name + variant, target, launch, *useful)
"""

BSCONV = """
from nsrlib.ops.bsconv2d.kernels import backward_launch, fused_launch

def gradients(case, target, dtype, c_in, c_out):
    x, g = meta(16, c_in, 48, 48, dtype=dtype), meta(16, c_out, 48, 48, dtype=dtype)
    weights = [meta(c_out, c_in, 1, 1, dtype=dtype), meta(c_out, 1, 3, 3, dtype=dtype)]
    add(f"GELU gradient {case}", target, fused_launch(x, *weights, meta(c_out, dtype=dtype), None, g, g, grad=g))
    add(f"backward {case}", target, backward_launch(x, *weights, g, x))

def layer(name, target, dtype, c_in, c_out, activation, with_residual, precision="tf32x3"):
    x, y = meta(1, c_in, 180, 320, dtype=dtype), meta(1, c_out, 180, 320, dtype=dtype)
    weights = (meta(*size, dtype=dtype) for size in ((c_out, c_in, 1, 1), (c_out, 1, 3, 3), (c_out,)))
    add(name, target, fused_launch(x, *weights, activation, y if with_residual else None, y, precision))

for target in TARGETS:
    precision = "ieee" if target == "gfx942" else "tf32x3"
    layer("bfloat16", target, torch.bfloat16, 64, 64, "gelu", True)
    layer("float32", target, torch.float32, 64, 64, "gelu", True, precision)
for c_in, c_out, activation in ((12, 64, None), (64, 32, None), (16, 16, "gelu"), (256, 256, "gelu")):
    layer(f"{c_in} to {c_out}", "sm_90", torch.bfloat16, c_in, c_out, activation, False)
for target in TARGETS:
    gradients("bfloat16", target, torch.bfloat16, 64, 64)
gradients("float16", "sm_90", torch.float16, 64, 64)
for c_in, c_out in ((12, 64), (64, 32), (16, 16)):
    gradients(f"{c_in} to {c_out}", "sm_90", torch.bfloat16, c_in, c_out)
layer("plain", "sm_90", torch.bfloat16, 64, 64, None, False)
for precision in ("ieee", "tf32"):
    layer(precision, "sm_90", torch.float32, 64, 64, "gelu", True, precision)
"""

MIXED = """
from nsrlib.ops.mixed_conv2d import kernels
from nsrlib.ops.mixed_conv2d.gates import geometry

def launches(names, target, dtype, mode):
    n, c, k, d = 16, 64, 4, 16
    x = meta(n, c, 48, 48, dtype=dtype)
    g = geometry(x.shape, (k * c, c, 3, 3), (n, k, d), (1, 1), (1, 1), ())
    weight = meta(k * c, 3, 3, c, dtype=dtype)
    filters = weight if mode == "hard" else meta(n * c, 3, 3, c, dtype=dtype)
    bias, gate = meta(len(filters), dtype=dtype), meta(n, k, d, 1, 1, dtype=dtype)
    choice = gate if mode == "hard" else None
    launches = {
        "mix": lambda: kernels.mix_launch(weight.permute(0, 3, 1, 2), bias[: k * c], gate, filters, g),
        "fwd": lambda: kernels.forward_launch(x, filters, bias, choice, x, g),
        "input": lambda: kernels.input_grad_launch(x, filters, choice, meta(n, 48, 48, c, dtype=dtype), g),
        "weight": lambda: kernels.weight_grad_launch(x, x, meta(1, n, c, 3, 3, c), g),
        "wide": lambda: kernels.wide_launch(x, filters[: k * c], bias[: k * c], gate, x, g, mode),
    }
    for name in names.split():
        units = ("FFMA", "FFMA2", "v_fma*", "v_pk_fma*") if name == "mix" else ("HMMA", "HGMMA", "UTCHMMA", "v_mfma*")
        add(f"{name} {mode} {str(dtype)[6:]}", target, launches[name](), *units)

every = "mix fwd input weight wide"
for target, names in {"sm_80": every, "sm_90": every, "sm_100": "mix fwd", "gfx942": "mix fwd input"}.items():
    launches(names, target, torch.bfloat16, "soft")
launches("fwd input wide", "sm_90", torch.bfloat16, "hard")
launches("fwd weight wide", "sm_80", torch.float32, "soft")
launches("wide", "sm_80", torch.float32, "hard")
"""

ALL = """
from nsrlib.bench.clock import rate_launch

names = ["adder2d forward 256->256", "adder2d int8 256->256", "mixed_conv2d hard 64->64 bfloat16"]
table = audit_all(names, ["sm_90", "gfx942"])
assert table.attrs["triton"]
rows = {f"{row['case']} {row['target']}": row for row in table.to_dict("records")}
for unit, dtype in (("additions", torch.float32), ("vabsdiff4", torch.int32)):
    for target in TARGETS if unit == "additions" else ["sm_80", "sm_90", "sm_100"]:
        flat = torch.empty(2048, dtype=dtype, device="meta")
        launch, count = rate_launch(flat, flat, 1024)
        assert count == 2048 * 1024 * 16
        add(unit, target, launch, "FADD", "FADD2", "v_add_f32", "v_pk_add_f32", "VABSDIFF4")
"""

SAMPLE = """
names = ["adder2d forward 256->256", "bsconv2d 64->64 GELU residual bfloat16", "mixed_conv2d soft 64->64 bfloat16"]
rows = {row["case"]: row for row in audit_all(names, ["sm_90"]).to_dict("records")}
"""


def audited(script, folder):
    """The rows that a script of :data:`START` finds, by case and target."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment.setdefault("TRITON_CACHE_DIR", str(folder))
    code = f"{START}\nif __name__ == '__main__':\n    exec({script!r})\n    print(json.dumps(rows))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def adder2d(tmp_path_factory):
    return audited(ADDER, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def bsconv2d(tmp_path_factory):
    return audited(BSCONV, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def mixed_conv2d(tmp_path_factory):
    return audited(MIXED, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def all_kernels(tmp_path_factory):
    return audited(ALL, tmp_path_factory.mktemp("triton"))


def test_innermost_loops_are_found_by_their_branch_back():
    code, loops = innermost_loops(SASS)
    assert code.total() == 10
    assert loops == ({"FADD.SAT": 1, "FADD": 1, "LDG.E": 1, "BRA": 1},)


def test_instructions_are_counted_by_name_and_modifier():
    mix = Mix({"FADD": 3, "FADD.SAT": 2, "FADD.FTZ.SAT": 1, "FFMA": 4, "v_add_f32_e32": 5})
    assert mix.count("FADD") == 6
    assert mix.count("FADD.SAT") == 3
    assert mix.count("FADD.SAT", "FFMA") == 7
    assert mix.count("v_add_f32") == 5
    assert mix.share("FADD") == 6 / 15
    assert mix.count("v_*", "FF*") == 9
    assert mix.bases().most_common(2) == [("FADD", 6), ("v_add_f32", 5)]


def test_wrong_arguments_name_what_is_possible():
    with pytest.raises(ValueError, match=r"target must be one of sm_80, sm_90, sm_100, gfx942, got 'sm_75'"):
        audit(Launch(None, (1,), {}), "sm_75")
    with pytest.raises(RuntimeError, match="without TRITON_INTERPRET"):
        audit(Launch(print, (1,), {}), "sm_90")


def test_one_kernel_of_each_operator_keeps_to_its_bars(tmp_path):
    adder, bsconv, mixed = audited(SAMPLE, tmp_path).values()
    assert adder["share"] >= bar("adder2d forward"), adder
    for row in (adder, bsconv, mixed):
        assert (row["spills"], row["stack"], row["loop_spills"]) == (0, 0, 0), row
    for row in (bsconv, mixed):
        assert row["share"] > 0, row  # of matrix products
        assert row["registers"] <= 168, row  # three programs of 128 threads on an SM
        assert row["shared"] <= 73 * 1024, row


# --- adder2d ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_adder_forward_spends_its_loop_on_additions(adder2d):
    for variant in ("", " channels_last", " bfloat16"):
        row = adder2d[f"forward{variant} sm_90"]
        assert row["share"] >= bar("adder2d forward"), row
        assert (row["loop_barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
def test_adder_input_gradient_is_a_saturating_and_a_plain_multiply_add(adder2d):
    for variant in ("", " channels_last", " bfloat16"):
        row = adder2d[f"input gradient{variant} sm_90"]
        kind = variant if variant == " bfloat16" else ""
        assert row["share"] >= bar(f"adder2d input gradient{kind}"), row
        assert row["useful"] == 2 * row["saturated"], row
        assert (row["loop_barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
def test_adder_forward_in_half_tiles_keeps_what_the_choice_of_tiles_counts_on(adder2d):
    for variant in ("", " bfloat16"):
        half, whole = adder2d[f"forward half a tile{variant} sm_90"], adder2d[f"forward{variant} sm_90"]
        assert half["share"] >= 0.93 * whole["share"], half


@pytest.mark.slow
def test_adder_weight_gradient_has_no_barrier_in_its_loop(adder2d):
    for name, bar in {"weight gradient": 0.65, "weight sign gradient": 0.30}.items():
        row = adder2d[f"{name} sm_90"]
        assert row["share"] >= bar, row
        assert (row["loop_barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_adder_int8_takes_four_taps_an_instruction(adder2d, target):
    row = adder2d[f"int8 {target}"]
    assert row["share"] >= bar("adder2d int8"), row
    assert (row["loop_barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_adder_kernels_compile_and_do_not_spill_in_their_loops(adder2d, target):
    names = [
        "forward",
        "input gradient",
        "weight gradient",
        "weight sign gradient",
        "int8 portable" if target == "gfx942" else "int8",
    ]
    for row in (adder2d[f"{name} {target}"] for name in names):
        assert row["loop_spills"] == 0, row
        assert row["stack"] <= 16, row  # bytes: ptxas saves registers before the loop to fit another program
    assert adder2d[f"forward {target}"]["stack"] == 0
    assert f"input sign gradient {target}" in adder2d


# --- bsconv2d ---------------------------------------------------------------------------------------------------------

UNIT = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma*"}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bsconv_uses_the_matrix_units_without_spills(bsconv2d, dtype, target):
    row = bsconv2d[f"{dtype} {target}"]
    assert row[UNIT[target]] > 0, row
    assert row["stack"] == 0, row
    if target != "gfx942":  # there scalar registers may spill, into vector registers; nothing goes to memory
        assert row["spills"] == 0, row


@pytest.mark.slow
def test_bsconv_in_bfloat16_keeps_to_its_budget(bsconv2d):
    """Two programs of 128 threads on an SM of sm_80 (65,536 registers), three on the others; 48 KB of shared memory."""
    amd = bar("bsconv2d registers on gfx942")
    for target, limit in {"sm_80": 256, "sm_90": 168, "sm_100": 168, "gfx942": amd}.items():
        row = bsconv2d[f"bfloat16 {target}"]
        assert row["registers"] <= limit, row
        assert row["shared"] <= 48 * 1024, row


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_as_many_bsconv_programs_fit_on_an_h100_as_their_launch_counts_on(bsconv2d, dtype):
    from nsrlib.ops.bsconv2d.kernels import PROGRAMS

    row = bsconv2d[f"{dtype} sm_90"]
    registers = 8 * -(-row["registers"] // 8) * 32 * row["num_warps"]  # handed out by eights
    fit = min(65536 // registers, 228 * 1024 // (row["shared"] + 1024))  # the system takes a KB of each
    assert fit == PROGRAMS[getattr(torch, dtype)], row


@pytest.mark.slow
def test_bsconv_gradients_use_the_matrix_units_without_spills(bsconv2d):
    """One program of 128 threads on an SM of sm_80 (65,536 registers), two on the others, in any shared memory."""
    from nsrlib.ops.bsconv2d.kernels import BACKWARD_PROGRAMS

    rows = {name: row for name, row in bsconv2d.items() if name.startswith(("GELU gradient", "backward"))}
    assert len(rows) == 16
    for name, row in rows.items():
        assert sum(row[unit] for unit in UNIT.values()) > 0, row
        assert row["stack"] == row["loop_spills"] == 0, row
        assert row["shared"] <= 48 * 1024, row
        if row["target"] != "gfx942":
            assert row["spills"] == 0, row
        if row["target"] in ("sm_90", "sm_100"):
            assert 65536 // (8 * -(-row["registers"] // 8) * 128) >= BACKWARD_PROGRAMS, row
        assert not name.startswith("backward") or row["loop"] <= 600, row


@pytest.mark.slow
def test_bsconv_spends_15_instructions_on_a_gelu(bsconv2d):
    """16 pixels a thread, 14 instructions each; by the error function it were 31."""
    assert bsconv2d["bfloat16 sm_90"]["loop"] - bsconv2d["plain sm_90"]["loop"] <= 16 * 15 + 100  # and the residual


@pytest.mark.slow
def test_bsconv_in_float32_takes_three_products(bsconv2d):
    assert bsconv2d["float32 sm_80"]["HMMA"] == 3 * 48  # three products of 48 instructions
    ieee, one_product = bsconv2d["ieee sm_90"], bsconv2d["tf32 sm_90"]
    assert ieee["HGMMA"] == ieee["HMMA"] == 0
    assert one_product["HGMMA"] == bsconv2d["float32 sm_90"]["HGMMA"] // 3
    assert ieee["spills"] == one_product["spills"] == 0


@pytest.mark.slow
def test_the_other_layers_of_bsrn_compile_without_spills(bsconv2d):
    for case in ("12 to 64", "64 to 32", "16 to 16", "256 to 256"):
        row = bsconv2d[f"{case} sm_90"]
        assert row["spills"] == row["stack"] == 0, row
        assert row["HGMMA"] + row["HMMA"] > 0, row
        assert row["shared"] <= 99 * 1024, row  # what a program may have on a consumer GPU


# --- mixed_conv2d -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mixed_kernels_use_the_matrix_units_without_spills(mixed_conv2d):
    assert {name.split()[0] for name in mixed_conv2d} == {"mix", "fwd", "input", "weight", "wide"}
    for name, row in mixed_conv2d.items():
        allowed = bar("mixed_conv2d stack on sm_80") if row["target"] == "sm_80" else 0
        assert row["stack"] <= allowed, row
        assert row["loop_spills"] == 0, row
        if row["target"] != "gfx942":
            assert row["spills"] <= allowed // 2, row  # a store and a load of four bytes each
        if name.startswith("mix"):
            assert row["useful"] > 0, row
            continue
        assert sum(row[unit] for unit in UNIT.values()) > 0, row
        if "bfloat16" in name:
            assert row[UNIT[row["target"]]] > 0, row


@pytest.mark.slow
def test_mixed_kernels_in_bfloat16_keep_to_their_budget(mixed_conv2d):
    """Two programs of 128 threads on an SM of sm_80 (65,536 registers) and 48 KB; on sm_90 three, and 72 KB each."""
    for name, row in mixed_conv2d.items():
        if "bfloat16" in name and not name.startswith("wide") and row["target"] != "gfx942":
            assert row["registers"] <= (256 if row["target"] == "sm_80" else 168), row
            assert row["shared"] <= (48 if row["target"] == "sm_80" else 73) * 1024, row


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["fwd", "input"])
def test_choosing_kernels_costs_the_loop_nothing_much(mixed_conv2d, kernel):
    """A row number read for each filter before the loop, or each chunk in it; no other difference to mixed kernels."""
    hard, soft = (mixed_conv2d[f"{kernel} {mode} bfloat16 sm_90"]["loop"] for mode in ("hard", "soft"))
    assert hard <= 1.1 * soft


# --- every kernel of the library --------------------------------------------------------------------------------------


def test_every_operator_is_audited_at_the_sizes_of_the_papers():
    names = " ".join(entries())
    for part in (
        "adder2d forward 64->64",
        "adder2d int8 256->256",
        "bsconv2d 64->64 GELU residual",
        "mixed_conv2d hard",
    ):
        assert part in names
    with pytest.raises(ValueError, match="unknown case 'conv'; known: adder2d forward 64->64, "):
        audit_all(["conv"])
    with pytest.raises(ValueError, match="unknown target 'sm_75'; known: sm_80, "):
        audit_all(targets=["sm_75"])


@pytest.mark.slow
def test_the_table_holds_the_bars_at_256_channels_too(all_kernels):
    rows = {name: row for name, row in all_kernels.items() if "case" in row}
    assert len(rows) == 6
    assert rows["adder2d forward 256->256 sm_90"]["share"] >= bar("adder2d forward")
    assert rows["adder2d int8 256->256 sm_90"]["share"] >= bar("adder2d int8")
    assert rows["mixed_conv2d hard 64->64 bfloat16 sm_90"]["share"] > 0  # HGMMA
    for name, row in rows.items():
        assert (row["loop_spills"], row["stack"]) == (0, 0), row
        assert row["loop_barriers"] == 0 or name.startswith("mixed"), row


@pytest.mark.slow
def test_the_kernels_that_find_the_limits_do_nothing_else(all_kernels):
    for name, row in all_kernels.items():
        if "case" not in row:
            assert row["share"] >= 0.85, (name, row)
            assert (row["spills"], row["loop_barriers"]) == (0, 0), (name, row)
