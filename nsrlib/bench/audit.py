"""Ahead-of-time compilation of Triton kernels, and what their machine code says, on a machine without a GPU.

:func:`audit` compiles one launch of a kernel for one target, specialised on its arguments just as it would be on a GPU
(divisibility by 16, integers equal to 1), and reads the result: registers, spills, shared memory and the
instructions of every innermost loop. NVIDIA code is read with ``nvdisasm`` and ``cuobjdump`` of the Triton wheel, AMD
code is text already.

Needs kernels that were *not* decorated under ``TRITON_INTERPRET=1``. Registers and spills change from one Triton
version to the next, hence :attr:`Audit.triton`. :func:`audit_all` is ``nsr bench kernels --audit``.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from pathlib import Path
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

_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Mix:
    """How often each instruction occurs in a piece of machine code, by its full name such as ``FADD.SAT``."""

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def count(self, *names: str) -> int:
        """Instructions with one of these names. ``FADD.SAT`` needs that modifier; ``FADD`` takes any modifiers.

        AMD names carry no dots: ``v_add_f32`` also takes its encodings ``v_add_f32_e32`` and ``v_add_f32_e64``. A
        ``*`` stands for anything.
        """
        return sum(n for name, n in self.counts.items() if any(_matches(name, wanted) for wanted in names))

    def share(self, *names: str) -> float:
        """:meth:`count` divided by all instructions, 0 to 1."""
        return self.count(*names) / max(self.total, 1)

    def most_common(self, k: int = 8) -> dict[str, int]:
        """The ``k`` most frequent instructions, modifiers and encodings left out."""
        bases = sorted({_without_encoding(n.split(".")[0]) for n in self.counts})
        return dict(Counter({base: self.count(base) for base in bases}).most_common(k))


def _matches(name: str, wanted: str) -> bool:
    base, *modifiers = name.split(".")
    wanted_base, *wanted_modifiers = wanted.split(".")
    return fnmatchcase(_without_encoding(base), wanted_base) and set(wanted_modifiers) <= set(modifiers)


def _without_encoding(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])_(e32|e64|sdwa|dpp)$", "", name)


@dataclass(frozen=True)
class Audit:
    """What one kernel became on one target.

    ``stack`` is in bytes a thread, ``shared`` in bytes a program, ``spills`` the number of instructions that save or
    restore registers (on AMD of registers spilled). ``loops`` are the innermost ones in program order.
    """

    kernel: str
    target: str
    triton: str
    num_warps: int
    registers: int
    stack: int
    spills: int
    shared: int
    loops: tuple[Mix, ...]
    code: Mix
    asm: str = field(repr=False)

    def hot_loop(self, *names: str) -> Mix:
        """The innermost loop with most instructions of these names; without names, the longest one.

        Loops are address ranges. On AMD the end of an outer loop may lie between the blocks of an inner one, and is
        then found in its place: read :attr:`code` there.

        Raises:
            LookupError: the kernel has no loop.
        """
        if not self.loops:
            raise LookupError(f"{self.kernel} for {self.target} has no loop")
        return max(self.loops, key=lambda mix: mix.count(*names) if names else mix.total)

    def row(self, *useful: str) -> dict[str, Any]:
        """One row of a table, without the code: loop and mix are of :meth:`hot_loop` (or of all code, without loops).

        With ``useful`` names also their share of that loop, and how many barriers and spills it holds.
        """
        hot = self.hot_loop(*useful) if self.loops else self.code
        mix = " ".join(f"{name}:{n}" for name, n in hot.most_common(6).items())
        keys = ("kernel", "target", "num_warps", "registers", "stack", "spills", "shared")
        row = {**{key: getattr(self, key) for key in keys}, "loop": hot.total, "mix": mix}
        if useful:
            row["share"] = hot.share(*useful)
            row["loop_barriers"] = hot.count("BAR", "s_barrier")
            row["loop_spills"] = hot.count("LDL", "STL", "scratch_load*", "scratch_store*")
        return row


def audit(launch: Launch, target: str) -> Audit:
    """Compile a launch for ``target`` and read its machine code. Needs no GPU, and tensors without data will do.

    The launch's tensors are taken as aligned to 16 bytes, everything else as it is.

    Raises:
        ValueError: ``target`` is unknown, or ``launch.arguments`` does not match the kernel's parameters.
        RuntimeError: the kernel was decorated under ``TRITON_INTERPRET=1``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime import JITFunction

    kernel, arguments = launch.kernel, launch.arguments
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if not isinstance(kernel, JITFunction):
        raise RuntimeError(f"{kernel} is no compiled kernel; import it in a process without TRITON_INTERPRET")
    if set(arguments) != set(kernel.arg_names):
        missing, surplus = set(kernel.arg_names) - set(arguments), set(arguments) - set(kernel.arg_names)
        raise ValueError(f"{kernel.__name__}: arguments missing {sorted(missing)}, not known {sorted(surplus)}")

    backend = TARGETS[target][0]
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        free = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not free):
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        signature[parameter.name], hints = _specialise(value, backend)
        if hints and not free:
            attributes[(i,)] = hints

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(
        source,
        target=GPUTarget(*TARGETS[target]),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    read = _read_amd if backend == "hip" else _read_nvidia
    name, version = kernel.__name__, triton.__version__
    return Audit(kernel=name, target=target, triton=version, num_warps=launch.num_warps, **read(compiled))


def _specialise(value: Any, backend: str) -> tuple[str, list[list[Any]]]:
    """Triton's type of an argument and what the compiler may assume about it."""
    aligned = [["tt.divisibility", 16]]
    if isinstance(value, torch.Tensor):
        # a launch on AMD tells the compiler when 32-bit offsets reach the whole tensor
        small = backend == "hip" and value.numel() * value.element_size() < 2**31
        return f"*{_TYPES[value.dtype]}", [*aligned, *([["tt.pointer_range", 32]] if small else [])]
    if isinstance(value, bool):
        return "i1", []
    if isinstance(value, int):
        return ("i32" if -(2**31) <= value < 2**31 else "i64"), aligned if value % 16 == 0 else []
    if isinstance(value, float):
        return "fp32", []
    raise TypeError(f"cannot pass {type(value).__name__} to a kernel")


def _read_nvidia(compiled: Any) -> dict[str, Any]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        sass = subprocess.run([tools / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage.stdout + usage.stderr)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {(usage.stdout + usage.stderr)[:200]!r}")
    registers, stack, static, local = map(int, found.groups())
    code, loops = innermost_loops(
        sass, label=r"\s*(\.L_x_\d+):", instruction=r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)",
        branch=r"BRA", to=r"\.L_x_\d+",
    )  # fmt: skip
    return {
        "registers": registers,
        "stack": stack + local,
        "spills": code.count("LDL", "STL"),
        "shared": max(static, compiled.metadata.shared),
        "loops": loops,
        "code": code,
        "asm": sass,
    }


def _read_amd(compiled: Any) -> dict[str, Any]:
    asm: str = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", asm)
        return int(found[1]) if found else 0

    code, loops = innermost_loops(
        asm, label=r"(\.LBB\d+_\d+):", instruction=r"\s+([a-z]+_\w+)(.*)", branch=r"s_c?branch", to=r"\.LBB\d+_\d+"
    )
    return {
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "spills": number("vgpr_spill_count") + number("sgpr_spill_count"),
        "shared": compiled.metadata.shared,
        "loops": loops,
        "code": code,
        "asm": asm,
    }


def innermost_loops(asm: str, label: str, instruction: str, branch: str, to: str) -> tuple[Mix, tuple[Mix, ...]]:
    """All instructions, and those of the innermost loops: from a label to the branch back to it, nothing nested.

    All but ``asm`` are regular expressions: of a line that is a label (its name in a group), of an instruction (name
    and operands in two), of the name of a branch, and of the label among its operands.
    """
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in asm.splitlines():
        if found := re.match(label, line):
            labels[found[1]] = len(code)
        elif found := re.match(instruction, line):
            code.append((found[1], found[2]))
    spans = []
    for end, (name, operands) in enumerate(code):
        target = re.search(to, operands) if re.match(branch, name) else None
        # a branch to itself is the trap that fills the space after the last instruction
        if target and labels.get(target[0], end) < end:
            spans.append((labels[target[0]], end))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]

    def mix(names: list[tuple[str, str]]) -> Mix:
        return Mix(dict(Counter(name for name, _ in names)))

    return mix(code), tuple(mix(code[a : b + 1]) for a, b in sorted(inner))


# --- every kernel of the library --------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A kernel at one size: its launch for a target, from meta tensors, and the instructions that do its work."""

    launch: Callable[[str], Launch]
    useful: tuple[str, ...]
    targets: tuple[str, ...] = tuple(TARGETS)


# AMD's packed addition takes no absolute value: there it is a mask.
ADD = ("FADD", "FADD2", "v_add_f32", "v_sub_f32", "v_subrev_f32", "v_pk_add_f32", "v_and_b32")
SATURATE_AND_MULTIPLY_ADD = ("FADD.SAT", "FFMA", "FFMA2", "v_add_f32", "v_sub_f32", "v_fma*_f32", "v_pk_fma_f32")
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
    from nsrlib.ops.adder2d.kernels import forward_launch, input_grad_launch, int8_launch, weight_sign_grad_launch

    one = (1, 1), (1, 1)

    def forward(c: int, **options: Any) -> Callable[[str], Launch]:
        x, weight = _meta(16, c, 48, 48, **options), _meta(c, c, 3, 3, dtype=options.get("dtype", torch.float32))
        return lambda target: forward_launch(x, weight, x, *one)

    def input_grad(c: int, rule: Any = "adder") -> Callable[[str], Launch]:
        x, weight = _meta(16, c, 48, 48), _meta(c, c, 3, 3)
        return lambda target: input_grad_launch(x, x, weight, x, *one, rule)

    def int8(c: int) -> Callable[[str], Launch]:
        x, y = (_meta(16, c, 48, 48, dtype=d, last=True) for d in (torch.int8, torch.int32))
        weight = _meta(c, c, 3, 3, dtype=torch.int8)
        return lambda target: int8_launch(x, weight, y, *one, vabsdiff4=TARGETS[target][0] == "cuda")

    x, weight, parts = _meta(16, 64, 48, 48), _meta(64, 64, 3, 3), _meta(64, 64, 64, 3, 3)
    compare = ("FSETP", "FSEL", "v_cmp*", "v_cndmask*")
    found = {
        f"adder2d {name} {c}->{c}": Entry(make(c), useful)
        for c in (64, 256)
        for name, make, useful in (
            ("forward", forward, ADD),
            ("input gradient", input_grad, SATURATE_AND_MULTIPLY_ADD),
            ("int8", int8, ("VABSDIFF4", "v_sub*", "v_add*", "v_max*")),
        )
    }
    return found | {
        "adder2d forward 64->64 channels last": Entry(forward(64, last=True), ADD),
        "adder2d forward 64->64 bfloat16": Entry(forward(64, dtype=torch.bfloat16), ADD),
        "adder2d input sign gradient 64->64": Entry(input_grad(64, "sign"), compare),
        "adder2d weight sign gradient 64->64": Entry(
            lambda target: weight_sign_grad_launch(x, x, weight, parts, *one), compare
        ),
    }


def _bsconv2d() -> dict[str, Entry]:
    from nsrlib.ops.bsconv2d.kernels import fused_launch

    def layer(c_in: int, c_out: int, dtype: torch.dtype, activation: str | None, residual: bool) -> Entry:
        def launch(target: str) -> Launch:
            shapes = (1, c_in, 180, 320), (c_out, c_in, 1, 1), (c_out, 1, 3, 3), (c_out,)
            x, pointwise, depthwise, bias = (torch.empty(s, dtype=dtype, device="meta") for s in shapes)
            y = _meta(1, c_out, 180, 320, dtype=dtype, last=True)
            precision = "ieee" if TARGETS[target][0] == "hip" else "tf32x3"
            return fused_launch(x, pointwise, depthwise, bias, activation, y if residual else None, y, precision)

        return Entry(launch, MATRIX)

    return {
        "bsconv2d 64->64 GELU residual bfloat16": layer(64, 64, torch.bfloat16, "gelu", True),
        "bsconv2d 64->64 GELU residual float32": layer(64, 64, torch.float32, "gelu", True),
        "bsconv2d 64->32 bfloat16, last distillation": layer(64, 32, torch.bfloat16, None, False),
        "bsconv2d 12->64 bfloat16, head": layer(12, 64, torch.bfloat16, None, False),
        "bsconv2d 16->16 GELU bfloat16, ESA": layer(16, 16, torch.bfloat16, "gelu", False),
        "bsconv2d 256->256 GELU bfloat16": layer(256, 256, torch.bfloat16, "gelu", False),
    }


def _mixed_conv2d() -> dict[str, Entry]:
    from nsrlib.ops.mixed_conv2d.gates import geometry
    from nsrlib.ops.mixed_conv2d.kernels import forward_launch, input_grad_launch, weight_grad_launch, wide_launch

    n, k, d = 16, 4, 16

    def entry(kind: str, c: int, dtype: torch.dtype) -> Entry:
        tile = (1, 1) if kind == "gate a pixel" else ()
        g = geometry((n, c, 48, 48), (k * c, c, 3, 3), (n, k, d), (1, 1), (1, 1), tile)
        x, every = _meta(n, c, 48, 48, dtype=dtype, last=True), _meta(k * c, 3, 3, c, dtype=dtype)
        mixed, chosen = _meta(n * c, 3, 3, c, dtype=dtype), _meta(n, d, dtype=torch.int32)
        makers: dict[str, Callable[[str], Launch]] = {
            "soft": lambda precision: forward_launch(x, mixed, None, None, x, g, precision),
            "hard": lambda precision: forward_launch(x, every, None, chosen, x, g, precision),
            "gate a pixel": lambda precision: wide_launch(
                x, every, None, _meta(n, 48, 48, k, d, dtype=dtype), x, g, precision
            ),
            "input gradient": lambda precision: input_grad_launch(
                x, mixed, None, _meta(n, 48, 48, c, dtype=dtype), g, precision
            ),
            "weight gradient": lambda precision: weight_grad_launch(x, x, _meta(1, n, c, 3, 3, c), g, precision),
        }
        return Entry(lambda target: makers[kind]("ieee" if TARGETS[target][0] == "hip" else "tf32x3"), MATRIX)

    kinds = ("soft", "hard", "gate a pixel", "input gradient", "weight gradient")
    return {
        **{f"mixed_conv2d {kind} 64->64 bfloat16": entry(kind, 64, torch.bfloat16) for kind in kinds},
        **{f"mixed_conv2d {kind} 64->64 float32": entry(kind, 64, torch.float32) for kind in kinds},
        "mixed_conv2d soft 128->128 bfloat16": entry("soft", 128, torch.bfloat16),
    }


def audit_all(
    names: Sequence[str] | None = None,
    targets: Sequence[str] = tuple(TARGETS),
    *,
    jobs: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Compile kernels for targets and tell what became of them. Needs no GPU; a few seconds a kernel and target.

    ``names`` are of :func:`entries` (default: all), ``jobs`` counts processes (default: one a core).

    Returns:
        A row a kernel and target; see :class:`Audit`. loop: instructions in the hot loop; share: of them, those that do
        the work, 0 to 1. ``attrs["triton"]`` is the compiler's version.

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
    tasks = [(n, t) for n in (known if names is None else names) for t in targets if t in known[n].targets]
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    bar = partial(tqdm, total=len(tasks), desc="kernels", disable=not progress)
    if jobs > 1:  # spawned, not forked: a process that has used CUDA must not be
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            rows = list(bar(pool.map(_audit_entry, *zip(*tasks, strict=True))))
    else:
        rows = [_audit_entry(*task) for task in bar(tasks)]
    columns = ["case", "target", "kernel", "num_warps", "registers", "stack", "spills", "shared", "loop", "share"]
    table = pd.DataFrame(rows, columns=[*columns, "loop_barriers", "loop_spills", "mix"])
    table.attrs = {"triton": import_module("triton").__version__}
    return table


def _audit_entry(name: str, target: str) -> dict[str, Any]:
    entry = entries()[name]
    return {"case": name, **audit(entry.launch(target), target).row(*entry.useful)}
