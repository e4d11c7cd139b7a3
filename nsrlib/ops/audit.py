"""Ahead-of-time compilation of Triton kernels, and what their machine code says, on a machine without a GPU.

:func:`compile_for` compiles one kernel for one target, specialised on its arguments just as a launch would specialise
it (divisibility by 16, integers equal to 1), and reads the result: registers, spills, shared memory and the
instructions of every innermost loop. NVIDIA code is read with ``nvdisasm`` and ``cuobjdump`` of the Triton wheel, AMD
code is text already.

Needs kernels that were *not* decorated under ``TRITON_INTERPRET=1``; a test starts a process without that variable.
Registers and spills change from one Triton version to the next, hence :attr:`Audit.triton`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

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


class Launch(NamedTuple):
    """One launch of one kernel: what a GPU runs is what is audited.

    ``arguments`` holds every parameter by name. Made from ``device="meta"`` tensors it can be audited, not run.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3

    def run(self) -> None:
        """Launch on the current device, or in the interpreter."""
        self.kernel[self.grid](**self.arguments, num_warps=self.num_warps, num_stages=self.num_stages)

    def audit(self, target: str) -> Audit:
        """:func:`compile_for` this launch."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return compile_for(self.kernel, self.arguments, target, **options)


@dataclass(frozen=True)
class Mix:
    """How often each instruction occurs in a piece of machine code, by its full name such as ``FADD.SAT``."""

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def count(self, *names: str) -> int:
        """Instructions with one of these names. ``FADD.SAT`` needs that modifier; ``FADD`` takes any modifiers.

        AMD names carry no dots: ``v_add_f32`` also takes its encodings ``v_add_f32_e32`` and ``v_add_f32_e64``.
        """
        return sum(n for name, n in self.counts.items() if any(_matches(name, wanted) for wanted in names))

    def share(self, *names: str) -> float:
        """:meth:`count` divided by all instructions, 0 to 1."""
        return self.count(*names) / max(self.total, 1)

    def most_common(self, k: int = 8) -> dict[str, int]:
        """The ``k`` most frequent instructions, modifiers left out."""
        return dict(Counter({base: self.count(base) for base in {n.split(".")[0] for n in self.counts}}).most_common(k))


def _matches(name: str, wanted: str) -> bool:
    base, *modifiers = name.split(".")
    wanted_base, *wanted_modifiers = wanted.split(".")
    base = re.sub(r"(?<=[a-z0-9])_(e32|e64|sdwa|dpp)$", "", base)
    return base == wanted_base and set(wanted_modifiers) <= set(modifiers)


@dataclass(frozen=True)
class Audit:
    """What one kernel became on one target.

    ``stack`` is in bytes a thread, ``shared`` in bytes a program (static and dynamic), ``spills`` the number of
    instructions that save or restore registers (on AMD the number of registers spilled). ``loops`` are the innermost
    loops in program order, ``code`` is the whole kernel, ``asm`` its text.
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

    def row(self) -> dict[str, Any]:
        """One row of a table, without the code."""
        hot = self.hot_loop() if self.loops else self.code
        mix = " ".join(f"{name}:{n}" for name, n in hot.most_common(6).items())
        keys = ("kernel", "target", "num_warps", "registers", "stack", "spills", "shared")
        return {**{key: getattr(self, key) for key in keys}, "loop": hot.total, "mix": mix}


def compile_for(
    kernel: Any, arguments: Mapping[str, Any], target: str, *, num_warps: int = 4, num_stages: int = 3, **options: Any
) -> Audit:
    """Compile a ``@triton.jit`` kernel for ``target`` and read its machine code. Needs no GPU.

    Args:
        kernel: the kernel.
        arguments: every parameter by name, as a launch would get it: tensors (``device="meta"`` will do; taken as
            aligned to 16 bytes), integers, floats and the values of the ``tl.constexpr`` parameters.
        target: a key of :data:`TARGETS`.
        num_warps, num_stages, options: compiler options of the launch.

    Raises:
        ValueError: ``target`` is unknown, or ``arguments`` does not match the kernel's parameters.
        RuntimeError: the kernel was decorated under ``TRITON_INTERPRET=1``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime import JITFunction

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
        options={"num_warps": num_warps, "num_stages": num_stages, **options},
    )
    read = _read_amd if backend == "hip" else _read_nvidia
    return Audit(
        kernel=kernel.__name__, target=target, triton=triton.__version__, num_warps=num_warps, **read(compiled)
    )


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
    """Registers, spills, shared memory and loops of a cubin."""
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
    code, loops = _loops(
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
    """Registers, spills, shared memory and loops of AMD assembly."""
    asm: str = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", asm)
        return int(found[1]) if found else 0

    code, loops = _loops(
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


def _loops(asm: str, label: str, instruction: str, branch: str, to: str) -> tuple[Mix, tuple[Mix, ...]]:
    """All instructions, and those of the innermost loops: from a label to the branch back to it, nothing nested."""
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
