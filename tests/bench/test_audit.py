"""Machine code without a GPU: how it is read, and the bars that the adder kernels are held to."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from nsrlib.bench.audit import TARGETS, Mix, _loops, audit_all, compile_for, entries

pytest.importorskip("triton")

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
SCRIPT = """
import json, torch
from nsrlib.ops.adder2d import forward_launch, input_grad_launch, int8_launch, weight_sign_grad_launch
from nsrlib.bench.audit import TARGETS

def meta(*size, dtype=torch.float32, last=False):
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=dtype, device="meta", memory_format=layout)

def launches(dtype=torch.float32, last=False):
    x, weight = meta(16, 64, 48, 48, dtype=dtype, last=last), meta(64, 64, 3, 3, dtype=dtype)
    x8, weight8, y8 = (t.to(d) for t, d in ((x, torch.int8), (weight, torch.int8), (x, torch.int32)))
    one = (1, 1), (1, 1)
    yield "forward", ["FADD"], forward_launch(x, weight, x, *one)
    yield "input gradient", ["FADD.SAT", "FFMA"], input_grad_launch(x, x, weight, x, *one)
    yield "input sign gradient", ["FSETP"], input_grad_launch(x, x, weight, x, *one, "sign")
    yield "weight sign gradient", ["FSETP"], weight_sign_grad_launch(x, x, weight, meta(64, 64, 64, 3, 3), *one)
    yield "int8", ["VABSDIFF4"], int8_launch(x8, weight8, y8, *one)
    yield "int8 portable", ["IABS"], int8_launch(x8, weight8, y8, *one, vabsdiff4=False)

rows = {}
for variant, options in {
    "": {}, " channels_last": {"last": True}, " bfloat16": {"dtype": torch.bfloat16}
}.items():
    for name, useful, launch in launches(**options):
        for target in TARGETS if not variant else ["sm_90"]:
            if target == "gfx942" and name == "int8":  # NVIDIA assembly
                continue
            audit = launch.audit(target)
            hot = audit.hot_loop(*useful)
            rows[f"{name}{variant} {target}"] = {
                **audit.row(), "share": hot.share(*useful),
                "barriers": hot.count("BAR"), "hot_spills": hot.count("LDL", "STL"),
                "useful": hot.count(*useful), "saturated": sum(hot.count(f"{n}.SAT") for n in ("FADD", "FFMA")),
            }
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def audits():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_innermost_loops_are_found_by_their_branch_back():
    code, loops = _loops(
        SASS, label=r"\s*(\.L_x_\d+):", instruction=r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)",
        branch="BRA", to=r"\.L_x_\d+",
    )  # fmt: skip
    assert code.total == 10
    assert [dict(loop.counts) for loop in loops] == [{"FADD.SAT": 1, "FADD": 1, "LDG.E": 1, "BRA": 1}]


def test_instructions_are_counted_by_name_and_modifier():
    mix = Mix({"FADD": 3, "FADD.SAT": 2, "FADD.FTZ.SAT": 1, "FFMA": 4, "v_add_f32_e32": 5})
    assert mix.count("FADD") == 6
    assert mix.count("FADD.SAT") == 3
    assert mix.count("FADD.SAT", "FFMA") == 7
    assert mix.count("v_add_f32") == 5
    assert mix.share("FADD") == 6 / 15
    assert mix.count("v_*", "FF*") == 9
    assert mix.most_common(2) == {"FADD": 6, "v_add_f32": 5}


def test_wrong_arguments_name_what_is_possible():
    with pytest.raises(ValueError, match=r"target must be one of sm_80, sm_90, sm_100, gfx942, got 'sm_75'"):
        compile_for(None, {}, "sm_75")
    with pytest.raises(RuntimeError, match="without TRITON_INTERPRET"):
        compile_for(print, {}, "sm_90")


@pytest.mark.slow
def test_adder_forward_spends_its_loop_on_additions(audits):
    for variant in ("", " channels_last", " bfloat16"):
        row = audits[f"forward{variant} sm_90"]
        assert row["share"] >= 0.80, row
        assert (row["barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
def test_adder_input_gradient_is_a_saturating_and_a_plain_multiply_add(audits):
    for variant, bar in {"": 0.75, " channels_last": 0.75, " bfloat16": 0.70}.items():
        row = audits[f"input gradient{variant} sm_90"]
        assert row["share"] >= bar, row
        assert row["useful"] == 2 * row["saturated"], row
        assert (row["barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_adder_int8_takes_four_taps_an_instruction(audits, target):
    row = audits[f"int8 {target}"]
    assert row["share"] >= 0.65, row
    assert (row["barriers"], row["spills"], row["stack"]) == (0, 0, 0), row


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_adder_kernels_compile_and_do_not_spill_in_their_loops(audits, target):
    names = ["forward", "input gradient", "weight sign gradient", "int8 portable" if target == "gfx942" else "int8"]
    for row in (audits[f"{name} {target}"] for name in names):
        assert row["hot_spills"] == 0, row
        assert row["stack"] <= 16, row  # bytes: ptxas saves registers before the loop to fit another program
    assert audits[f"forward {target}"]["stack"] == 0
    assert f"input sign gradient {target}" in audits


# every kernel of the library

ALL = """
import json, torch
from nsrlib.bench import rate_launch
from nsrlib.bench.audit import TARGETS, audit_all

names = ["adder2d forward 256->256", "adder2d int8 256->256", "mixed_conv2d hard 64->64 bfloat16"]
table = audit_all(names, ["sm_90", "gfx942"], jobs=2)
limits = {}
for unit, dtype in (("additions", torch.float32), ("vabsdiff4", torch.int32)):
    for target in TARGETS if unit == "additions" else ["sm_80", "sm_90", "sm_100"]:
        flat = torch.empty(2048, dtype=dtype, device="meta")
        launch, count = rate_launch(unit, flat, flat, 1024)
        assert count == 2048 * 1024 * 16
        row = launch.audit(target).row("FADD", "FADD2", "v_add_f32", "v_pk_add_f32", "VABSDIFF4")
        limits[f"{unit} {target}"] = row
print(json.dumps({"rows": table.to_dict("records"), "triton": table.attrs["triton"], "limits": limits}))
"""


@pytest.fixture(scope="module")
def all_kernels():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", ALL], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


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
    rows = {(row["case"], row["target"]): row for row in all_kernels["rows"]}
    assert len(rows) == 6
    assert rows["adder2d forward 256->256", "sm_90"]["share"] >= 0.80
    assert rows["adder2d int8 256->256", "sm_90"]["share"] >= 0.65
    for (name, target), row in rows.items():
        assert (row["loop_spills"], row["stack"]) == (0, 0), row
        assert row["loop_barriers"] == 0 or name.startswith("mixed"), row
        assert row["target"] == target
    assert rows["mixed_conv2d hard 64->64 bfloat16", "sm_90"]["share"] > 0  # HGMMA
    assert all_kernels["triton"]


@pytest.mark.slow
def test_the_kernels_that_find_the_limits_do_nothing_else(all_kernels):
    for name, row in all_kernels["limits"].items():
        assert row["share"] >= 0.85, (name, row)
        assert (row["spills"], row["loop_barriers"]) == (0, 0), (name, row)
