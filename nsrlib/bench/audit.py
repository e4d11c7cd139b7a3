"""Ahead-of-time compilation of Triton kernels, and what their machine code says, on a machine without a GPU.

:func:`audit` compiles one launch of a kernel for one target, specialised on its arguments as it would be on that GPU,
and reads the result: registers, spills, shared memory and the instructions of every innermost loop. They change from
one Triton version to the next. :func:`audit_all` is ``nsr bench kernels --audit``.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nsrlib.ops.common import Launch

if TYPE_CHECKING:
    import pandas as pd

# backend, architecture, threads in a warp
TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

# NVIDIA code has addresses and predicates before its instructions, AMD code has none
_INSTRUCTION = re.compile(r"\s+(?:/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?)?([A-Z][A-Z0-9_.]*|[a-z]+_\w+)(.*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+|\.LBB\d+_\d+)(:?)")
_BRANCH = re.compile(r"BRA|s_c?branch")


class Mix(Counter[str]):
    """How often each instruction occurs in a piece of machine code, by its full name such as ``FADD.SAT``."""

    def count(self, *names: str) -> int:
        """Instructions with one of these names; ``*`` stands for anything.

        ``FADD.SAT`` needs that modifier, ``FADD`` takes any; ``v_add_f32`` takes its encodings such as ``_e32``, too.
        """
        return sum(n for name, n in self.items() if any(_matches(name, wanted) for wanted in names))

    def share(self, *names: str) -> float:
        """:meth:`count` divided by all instructions, 0 to 1."""
        return self.count(*names) / max(self.total(), 1)

    def bases(self) -> Counter[str]:
        """The same, modifiers and encodings left out."""
        found: Counter[str] = Counter()
        for base, n in sorted((_base(name), n) for name, n in self.items()):
            found[base] += n
        return found


def _base(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])_(e32|e64|sdwa|dpp)$", "", name.partition(".")[0])


def _matches(name: str, wanted: str) -> bool:
    base, *modifiers = wanted.split(".")
    return fnmatchcase(_base(name), base) and set(modifiers) <= set(name.split(".")[1:])


@dataclass(frozen=True)
class Audit:
    """What one kernel became on one target."""

    kernel: str
    target: str
    num_warps: int
    registers: int
    stack: int  # bytes a thread
    spills: int  # instructions that save or restore registers; on AMD registers spilled
    shared: int  # bytes a program
    loops: tuple[Mix, ...]  # the innermost ones in program order
    code: Mix

    def hot_loop(self, *names: str) -> Mix:
        """The innermost loop with most instructions of these names (the longest one without names); without loops, all.

        Loops are address ranges. On AMD the end of an outer loop may lie between the blocks of an inner one, and is
        then found in its place: read :attr:`code` there.
        """
        return max(self.loops, key=lambda mix: mix.count(*names) if names else mix.total(), default=self.code)

    def row(self, *useful: str) -> dict[str, Any]:
        """One row of a table: of the hot loop its length, the share of ``useful`` names, barriers, spills and mix."""
        hot = self.hot_loop(*useful)
        keys = ("target", "kernel", "num_warps", "registers", "stack", "spills", "shared")
        return {key: getattr(self, key) for key in keys} | {
            "loop": hot.total(),
            "share": hot.share(*useful),
            "loop_barriers": hot.count("BAR", "s_barrier"),
            "loop_spills": hot.count("LDL", "STL", "scratch_load*", "scratch_store*"),
            "mix": " ".join(f"{name}:{n}" for name, n in hot.bases().most_common(6)),
        }


def audit(launch: Launch, target: str) -> Audit:
    """Compile a launch for ``target`` and read its machine code. Needs no GPU; meta tensors will do.

    Raises:
        ValueError: ``target`` is unknown.
        RuntimeError: the kernel was decorated under ``TRITON_INTERPRET=1``.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    kernel = launch.kernel
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if not isinstance(kernel, JITFunction):
        raise RuntimeError(f"{kernel} is no compiled kernel; import it in a process without TRITON_INTERPRET")
    gpu = GPUTarget(*TARGETS[target])
    absent = {"target": gpu, "device": target, "stream": None}  # all that the compiler asks of a driver
    driver.set_active(SimpleNamespace(**{f"get_current_{k}": lambda *_, v=v: v for k, v in absent.items()}))
    try:
        compiled = kernel.warmup(
            **launch.arguments, grid=launch.grid, num_warps=launch.num_warps, num_stages=launch.num_stages
        )
    finally:
        if torch.cuda.is_available():
            driver.reset_active()
    asm, usage = (_read_amd if gpu.backend == "hip" else _read_nvidia)(compiled)
    code, loops = innermost_loops(asm)
    usage = {"spills": code.count("LDL", "STL"), **usage}
    return Audit(kernel.__name__, target, launch.num_warps, loops=loops, code=code, **usage)


def _read_nvidia(compiled: Any) -> tuple[str, dict[str, int]]:
    tools = Path(import_module("triton").__file__ or "").parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        sass, usage = (
            subprocess.run([tools / tool, option, cubin.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "-res-usage"))
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {usage[:200]!r}")
    registers, stack, static, local = map(int, found.groups())
    shared = max(static, compiled.metadata.shared)
    return sass, {"registers": registers, "stack": stack + local, "shared": shared}


def _read_amd(compiled: Any) -> tuple[str, dict[str, int]]:
    asm: str = compiled.asm["amdgcn"]
    found = {name: int(number) for name, number in re.findall(r"\.(\w+):\s+(\d+)$", asm, re.MULTILINE)}
    return asm, {
        "registers": found["vgpr_count"],
        "stack": found["private_segment_fixed_size"],
        "spills": found["vgpr_spill_count"] + found["sgpr_spill_count"],
        "shared": compiled.metadata.shared,
    }


def innermost_loops(asm: str) -> tuple[Mix, tuple[Mix, ...]]:
    """All instructions, and those of the innermost loops: from a label to the branch back to it, nothing nested."""
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in asm.splitlines():
        if (found := _LABEL.match(line)) and found[2]:
            labels[found[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append((found[1], found[2]))
    spans = []
    for end, (name, operands) in enumerate(code):
        target = _LABEL.search(operands) if _BRANCH.match(name) else None
        # a branch to itself is the trap that fills the space after the last instruction
        if target and labels.get(target[1], end) < end:
            spans.append((labels[target[1]], end))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    names = [name for name, _ in code]
    return Mix(names), tuple(Mix(names[a : b + 1]) for a, b in sorted(inner))


class Entry(NamedTuple):
    """A kernel at one size: its launch from meta tensors, for CUDA or not, and the instructions that do its work."""

    launch: Callable[[bool], Launch]
    useful: tuple[str, ...]


# AMD's packed addition takes no absolute value: there it is a mask.
ADD = ("FADD", "FADD2", "v_add_f32", "v_sub_f32", "v_subrev_f32", "v_pk_add_f32", "v_and_b32")
SATURATE_AND_MULTIPLY_ADD = ("FADD.SAT", "FFMA", "FFMA2", "v_add_f32", "v_sub_f32", "v_fma*_f32", "v_pk_fma_f32")
COMPARE = ("FSETP", "FSEL", "v_cmp*", "v_cndmask*")
DIFFERENCE = ("VABSDIFF4", "v_sub*", "v_add*", "v_max*")
MULTIPLY_ADD = ("FFMA", "FFMA2", "v_fma*", "v_pk_fma*", "v_mad*")
MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "v_mfma*")


def entries() -> dict[str, Entry]:
    """Every operator's kernels at the sizes of the papers: 64 to 256 channels, 16 patches of 48x48; BSRN's layers."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ImportError(f"compiling kernels needs Triton (Linux): pip install 'nsrlib[triton]' ({error})") from error
    return {**_adder2d(), **_bsconv2d(), **_mixed_conv2d()}


def _meta(*size: int, dtype: torch.dtype = torch.float32, last: bool = False) -> torch.Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=dtype, device="meta", memory_format=layout)


def _adder2d() -> dict[str, Entry]:
    from nsrlib.ops.adder2d.launches import backward_launches, forward_launches, int8_launches

    def entry(kind: str, c: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Entry:
        x, weight = _meta(16, c, 48, 48, dtype=dtype, last=last), _meta(c, c, 3, 3, dtype=dtype)
        x8, y8 = (_meta(16, c, 48, 48, dtype=d, last=True) for d in (torch.int8, torch.int32))
        weight8, one = _meta(c, c, 3, 3, dtype=torch.int8), ((1, 1), (1, 1))
        back = (x, x, weight, x, weight, *one)
        return {
            "forward": Entry(lambda cuda: forward_launches(x, weight, x, *one)[-1], ADD),
            "input gradient": Entry(lambda cuda: backward_launches(*back)[2], SATURATE_AND_MULTIPLY_ADD),
            "input sign gradient": Entry(lambda cuda: backward_launches(*back, "sign")[2], COMPARE),
            "weight gradient": Entry(lambda cuda: backward_launches(*back)[1], MULTIPLY_ADD),
            "weight sign gradient": Entry(lambda cuda: backward_launches(*back, "sign")[1], COMPARE),
            "int8": Entry(lambda cuda: int8_launches(x8, weight8, y8, *one, vabsdiff4=cuda)[-1], DIFFERENCE),
            "copies forward": Entry(lambda cuda: forward_launches(x, weight, x, *one)[0], ()),
            "copies backward": Entry(lambda cuda: backward_launches(*back)[0], ()),
            "copies int8": Entry(lambda cuda: int8_launches(x8, weight8, y8, *one)[0], ()),
        }[kind]

    kinds = ("forward", "input gradient", "weight gradient", "int8")
    return {
        **{f"adder2d {kind} {c}->{c}": entry(kind, c) for c in (64, 256) for kind in kinds},
        "adder2d forward 64->64 channels last": entry("forward", 64, last=True),
        "adder2d forward 64->64 bfloat16": entry("forward", 64, torch.bfloat16),
        "adder2d input sign gradient 64->64": entry("input sign gradient", 64),
        "adder2d weight sign gradient 64->64": entry("weight sign gradient", 64),
        "adder2d copies forward 64->64 channels last": entry("copies forward", 64, last=True),
        **{f"adder2d copies {kind} 64->64": entry(f"copies {kind}", 64) for kind in ("backward", "int8")},
    }


def _bsconv2d() -> dict[str, Entry]:
    from nsrlib.ops.bsconv2d.kernels import backward_launch, fused_launch

    def gradient(kind: str) -> Entry:
        sizes = (16, 64, 48, 48), (64, 64, 1, 1), (64, 1, 3, 3), (64,)
        x, pointwise, depthwise, bias = (_meta(*size, dtype=torch.bfloat16) for size in sizes)
        launch: dict[str, Callable[[bool], Launch]] = {
            "GELU gradient": lambda cuda: fused_launch(x, pointwise, depthwise, bias, None, x, x, grad=x),
            "backward": lambda cuda: backward_launch(x, pointwise, depthwise, x, x),
        }
        return Entry(launch[kind], MATRIX)

    def layer(c_in: int, c_out: int, dtype: torch.dtype, activation: str | None, residual: bool = False) -> Entry:
        x, y = (_meta(1, c, 180, 320, dtype=dtype, last=last) for c, last in ((c_in, False), (c_out, True)))
        sizes = (c_out, c_in, 1, 1), (c_out, 1, 3, 3), (c_out,)
        pointwise, depthwise, bias = (_meta(*size, dtype=dtype) for size in sizes)
        other = y if residual else None
        return Entry(
            lambda cuda: fused_launch(x, pointwise, depthwise, bias, activation, other, y, _precision(cuda)), MATRIX
        )

    return {
        "bsconv2d 64->64 GELU residual bfloat16": layer(64, 64, torch.bfloat16, "gelu", True),
        "bsconv2d 64->64 GELU residual float32": layer(64, 64, torch.float32, "gelu", True),
        "bsconv2d 64->32 bfloat16, last distillation": layer(64, 32, torch.bfloat16, None),
        "bsconv2d 12->64 bfloat16, head": layer(12, 64, torch.bfloat16, None),
        "bsconv2d 16->16 GELU bfloat16, ESA": layer(16, 16, torch.bfloat16, "gelu"),
        "bsconv2d 256->256 GELU bfloat16": layer(256, 256, torch.bfloat16, "gelu"),
        **{f"bsconv2d {kind} 64->64 bfloat16": gradient(kind) for kind in ("GELU gradient", "backward")},
    }


def _precision(cuda: bool) -> Any:
    return "tf32x3" if cuda else "ieee"


def _mixed_conv2d() -> dict[str, Entry]:
    from nsrlib.ops.mixed_conv2d.gates import geometry
    from nsrlib.ops.mixed_conv2d.kernels import (
        forward_launch,
        input_grad_launch,
        mix_launch,
        weight_grad_launch,
        wide_launch,
    )

    n, k, d = 16, 4, 16

    def entry(kind: str, c: int, dtype: torch.dtype) -> Entry:
        tile = (1, 1) if kind.startswith("gate a pixel") else ()
        g = geometry((n, c, 48, 48), (k * c, c, 3, 3), (n, k, d), (1, 1), (1, 1), tile)
        x, every = _meta(n, c, 48, 48, dtype=dtype, last=True), _meta(k * c, 3, 3, c, dtype=dtype)
        mixed, gate, pixels = (_meta(*size, dtype=dtype) for size in ((n * c, 3, 3, c), (n, k, d), (n, k, d, 48, 48)))
        weight, grad, parts = (
            _meta(k * c, c, 3, 3, dtype=dtype, last=True),
            _meta(n, 48, 48, c, dtype=dtype),
            _meta(1, n, c, 3, 3, c),
        )
        launch: dict[str, Callable[[bool], Launch]] = {
            "mix": lambda cuda: mix_launch(weight, None, gate, mixed, g),
            "soft": lambda cuda: forward_launch(x, mixed, None, None, x, g, _precision(cuda)),
            "hard": lambda cuda: forward_launch(x, every, None, gate, x, g, _precision(cuda)),
            "gate a pixel": lambda cuda: wide_launch(x, every, None, pixels, x, g, "soft", _precision(cuda)),
            "gate a pixel, hard": lambda cuda: wide_launch(x, every, None, pixels, x, g, "hard", _precision(cuda)),
            "input gradient": lambda cuda: input_grad_launch(x, mixed, None, grad, g, _precision(cuda)),
            "weight gradient": lambda cuda: weight_grad_launch(x, x, parts, g, _precision(cuda)),
        }
        return Entry(launch[kind], MULTIPLY_ADD if kind == "mix" else MATRIX)

    kinds = ("mix", "soft", "hard", "gate a pixel", "gate a pixel, hard", "input gradient", "weight gradient")
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    return {
        **{f"mixed_conv2d {kind} 64->64 {t}": entry(kind, 64, dtype) for t, dtype in types.items() for kind in kinds},
        "mixed_conv2d soft 128->128 bfloat16": entry("soft", 128, torch.bfloat16),
    }


def audit_all(
    names: Sequence[str] | None = None,
    targets: Sequence[str] = tuple(TARGETS),
    *,
    progress: bool = False,
    keep_going: bool = False,
) -> pd.DataFrame:
    """Compile kernels of :func:`entries` (default: all) for targets, a few seconds each, in a process a core.

    With ``keep_going`` there is a column ``error``, and a kernel that does not compile is a row with nothing else.

    Returns:
        A row a kernel and target, of :meth:`Audit.row`; ``attrs["triton"]`` is the compiler's version.

    Raises:
        ValueError: unknown names or targets.
        RuntimeError: under ``TRITON_INTERPRET=1``.
        ImportError: there is no Triton.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    known = entries()
    for what, given, possible in (("case", names or (), known), ("target", targets, TARGETS)):
        if unknown := [g for g in given if g not in possible]:
            raise ValueError(f"unknown {what} {unknown[0]!r}; known: {', '.join(possible)}")
    tasks = [(name, target) for name in (known if names is None else names) for target in targets]
    # spawned, not forked: a process that has used CUDA must not be
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(_attempt_entry if keep_going else _audit_entry, *zip(*tasks, strict=True))
        table = pd.DataFrame(tqdm(found, total=len(tasks), desc="kernels", disable=not progress))
    table.attrs = {"triton": import_module("triton").__version__}
    return table


def _audit_entry(name: str, target: str) -> dict[str, Any]:
    entry = entries()[name]
    found = audit(entry.launch(TARGETS[target][0] == "cuda"), target)
    return {"case": name, **found.row(*entry.useful)}


def _attempt_entry(name: str, target: str) -> dict[str, Any]:
    try:
        return {**_audit_entry(name, target), "error": ""}
    except Exception as error:
        reason = " ".join(str(error).split())
        return {"case": name, "target": target, "error": f"{type(error).__name__}: {reason[:300]}"}
