"""What the operators share: sizes, checks, autocast, launches, and the names in their kernels.

Every operator is a folder: ``reference`` is the definition, ``kernels`` the Triton kernels and their launches, ``cpu``
the way by PyTorch's own operators (for CPU tensors and whatever has no kernel), ``__init__`` the registration and the
public function. ``kernels`` is imported by the first call on a GPU: nothing else needs Triton.

=========================================  =============================================================================
name in a kernel                           meaning
=========================================  =============================================================================
lower case, UPPER CASE                     known at the launch, known to the compiler
``x_ptr, w_ptr, y_ptr, g_ptr, d_ptr``      input, filters, result, gradient of the result, the gradient that is computed
``height, width, out_h, out_w``            pixels of an image of the input and of the result
``c_in, c_out, KH, KW``                    channels, taps of a filter
``stride_h, pad_h``                        of the window, likewise ``_w``
``x_n, x_c, x_h, x_w``                     strides of a tensor, by axis; ``_o`` of output channels, ``_p`` of pixels
``n, c, o, p, h, w``                       sample, input channel, output channel, pixel, row, column
``BLOCK_C, BLOCK_O, BLOCK_P``              input channels, output channels and pixels of a program
``PRECISION``                              how ``tl.dot`` multiplies float32
=========================================  =============================================================================
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

HW = tuple[int, int]  # vertical, horizontal
Pair = int | HW
Float32Precision = Literal["tf32x3", "ieee", "tf32"]

FLOAT32_PRECISIONS: tuple[str, ...] = ("tf32x3", "ieee", "tf32")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KERNEL_DEVICES: tuple[str, ...] = ("cuda",)  # NVIDIA and AMD
try:
    HAS_TRITON = importlib.util.find_spec("triton") is not None
except ImportError:
    HAS_TRITON = False
# computed once: torch.compile of PyTorch 2.11 cannot trace the question
AUTOCAST_DEVICES = tuple(d for d in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(d))


# --- sizes ------------------------------------------------------------------------------------------------------------


def pair(value: Pair | Sequence[int]) -> HW:
    """A number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def cdiv(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def output_size(size: Any, kernel: Any, stride: Any, padding: Any) -> HW:
    """Pixels of a result ``(OH, OW)``, from pairs."""
    oh, ow = ((size[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    return oh, ow


def channels_last(x: Tensor) -> Tensor:
    """``x`` in the channels_last layout, copied only if it is not so already; under ``torch.vmap`` as it is."""
    if torch._C._functorch.is_batchedtensor(x):  # it knows no layouts
        return x
    return x.contiguous(memory_format=torch.channels_last)


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` is channels last and not contiguous too, as one pixel or one channel is."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def empty(x: Tensor, size: Sequence[int], last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Room for a result on the device of ``x``: channels last or contiguous, in the type of ``x`` or another."""
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(size), dtype=dtype or x.dtype, device=x.device, memory_format=layout)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type of sums: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def one_by_one_dilation(device: torch.device) -> int:
    """Dilation to give to a 1x1 convolution, for which it means nothing.

    On a CPU it makes PyTorch hand a single-threaded 1x1 convolution to oneDNN instead of its own matrix product, which
    was two to three times slower wherever it was measured.
    """
    return 2 if device.type == "cpu" else 1


# --- checks -----------------------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(repr(c) if c is None or None in choices else c for c in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_input(x: Tensor, dtypes: Sequence[torch.dtype] = FLOATS, hint: str = "") -> None:
    """ValueError unless ``x`` is ``(N, C_in, H, W)``, TypeError unless it is of one of ``dtypes``."""
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C_in, H, W), got {tuple(x.shape)}")
    if x.dtype not in dtypes:
        raise TypeError(f"x must be {', '.join(map(str, dtypes))}, got {x.dtype}{hint}")


def check_filters(name: str, weight: Tensor, x: Tensor, axes: str) -> None:
    """ValueError unless ``weight`` has the four ``axes``, none empty, and takes the channels of ``x``."""
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"{name} must be {axes}, none of them 0, got {tuple(weight.shape)}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"{name} {tuple(weight.shape)} takes {weight.shape[1]} channels, x has {x.shape[1]}")


def check_alike(x: Tensor, **others: Tensor | None) -> None:
    """TypeError unless all are of the type of ``x``, ValueError unless all are on its device."""
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, x is {x.dtype}: they must be the same")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x is on {x.device}: they must be the same")


def check_at_least(least: int, **pairs: HW) -> None:
    """ValueError if a number of a pair is below ``least``."""
    for name, sides in pairs.items():
        if min(sides) < least:
            raise ValueError(f"{name} must be at least {least}, got {sides}")


def check_window(x: Tensor, weight: Tensor, stride: HW, padding: HW) -> None:
    """ValueError if stride or padding make no sense, or the result would have no pixel."""
    check_at_least(1, stride=stride)
    check_at_least(0, padding=padding)
    size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    if min(output_size(size, kernel, stride, padding)) < 1:
        raise ValueError(f"weight of {kernel} exceeds x of {size} with padding {padding}")


# --- autocast ---------------------------------------------------------------------------------------------------------


def in_autocast(x: Tensor, *others: Tensor | None, float32: bool = False) -> tuple[Any, ...]:
    """All tensors (None stays None) in the type that autocast asks for; as they are without it.

    Autocast knows two kinds of operators. Products, like convolutions, run in its own type, bfloat16 or float16; sums
    of many terms of one sign, like ``torch.cdist``, run in float32 (``float32=True``). As there, float64 and integers
    stay what they are: if ``x`` is such, so do all.
    """
    device = x.device.type
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device) or x.dtype not in FLOATS[:3]:
        return x, *others
    dtype = torch.float32 if float32 else torch.get_autocast_dtype(device)
    return tuple(t if t is None else t.to(dtype) for t in (x, *others))


# --- launches ---------------------------------------------------------------------------------------------------------


def vmap_rule(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operator under ``torch.vmap``: one call an element."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        def element(b: int) -> Any:
            return operator(
                *(a.select(dim, b) if isinstance(dim, int) else a for a, dim in zip(args, in_dims, strict=True))
            )

        found = [element(b) for b in range(info.batch_size)]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(values) for values in zip(*found, strict=True)), (0,) * len(found[0])

    return rule


def interpreter_problem() -> str | None:
    """Why Triton's interpreter (``TRITON_INTERPRET=1``) cannot run here, or None; compiled kernels are not concerned.

    Triton 3.6 asks numpy for the integer of an array of one element, which numpy from 2.4 on refuses.
    """
    import numpy
    import triton

    def release(module: Any) -> tuple[int, ...]:
        return tuple(int(part) for part in module.__version__.split(".")[:2])

    if release(triton) >= (3, 7) or release(numpy) < (2, 4):
        return None
    return (
        f"the interpreter of Triton {triton.__version__} does not work with numpy {numpy.__version__}: "
        "install 'numpy<2.4' or 'triton>=3.7' (kernels compiled for a GPU work with both)"
    )


class Launch(NamedTuple):
    """One launch of one Triton kernel: what a GPU runs is what :func:`nsrlib.bench.audit.audit` compiles and reads.

    ``arguments`` holds every parameter by name. Made from ``device="meta"`` tensors it can be audited, not run.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3

    def run(self) -> None:
        """Launch on the device of the tensors, or in the interpreter.

        Raises:
            RuntimeError: in the interpreter, if :func:`interpreter_problem` knows why it fails.
        """
        tensor = next(value for value in self.arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device_of(tensor):
            try:
                self.kernel[self.grid](**self.arguments, num_warps=self.num_warps, num_stages=self.num_stages)
            except Exception as error:
                # by name: a compiled kernel knows no such error, and costs no question before its launch
                if type(error).__name__ == "InterpreterError" and (problem := interpreter_problem()):
                    raise RuntimeError(problem) from error
                raise


def on_kernel_device(x: Tensor) -> bool:
    """Whether ``x`` is where Triton computes."""
    return x.device.type in KERNEL_DEVICES


def has_kernel(x: Tensor, *more: torch.dtype) -> bool:
    """Whether Triton may compute with ``x``: on a GPU, in a 16- or 32-bit float type or one of ``more``."""
    return HAS_TRITON and x.device.type in KERNEL_DEVICES and x.dtype in (*FLOATS[:3], *more)


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; where there is none, those of an H100."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def dot_precision(dtype: torch.dtype, float32_precision: str) -> str:
    """The ``input_precision`` of ``tl.dot``: without meaning for 16-bit types; AMD multiplies float32 as it is."""
    return float32_precision if dtype == torch.float32 and not torch.version.hip else "ieee"


def channel_block(channels: int, most: int = 64) -> int:
    """Channels of a block: a power of two from 16, what a matrix product wants, to ``most``."""
    return min(most, max(16, 1 << (channels - 1).bit_length()))
