"""Kernels for every test of an operator: compiled where there is a GPU, in Triton's interpreter elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nsrlib.ops import common

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Interpreted:
    """Runs a kernel in Triton's interpreter, which cannot do bfloat16 arithmetic: such tensors travel as float32."""

    def __init__(self, function) -> None:
        self.function = function

    def __getitem__(self, grid):
        def launch(num_warps, num_stages, **arguments):
            bfloat16 = {k: v for k, v in arguments.items() if isinstance(v, Tensor) and v.dtype == torch.bfloat16}
            wide = {k: v.float() for k, v in bfloat16.items()}
            self.function[grid](**arguments | wide)
            for name in bfloat16:
                if name in ("y_ptr", "d_ptr", "dw_ptr") or name.startswith("to_"):
                    bfloat16[name].copy_(wide[name])

        return launch


@pytest.fixture
def launches(monkeypatch):
    """Sends every operator through its kernels, whatever the device, into memory full of NaN; gives name and grid.

    On a CPU the kernels, and the part of Triton's own language that is written in Triton, are handed to the interpreter
    for one test: ``TRITON_INTERPRET`` would have to be set before the first import, for the whole process.
    """
    pytest.importorskip("triton")
    from nsrlib.ops.adder2d import kernels as adder
    from nsrlib.ops.bsconv2d import kernels as bsconv
    from nsrlib.ops.mixed_conv2d import kernels as mixed

    if DEVICE == "cpu":
        if problem := common.interpreter_problem():
            pytest.skip(problem)
        import triton.experimental.gluon  # imported by the interpreter, before anything is patched
        import triton.language
        from triton.runtime import JITFunction
        from triton.runtime.interpreter import InterpretedFunction

        for module in (adder, bsconv, mixed, triton.language, triton.language.standard):
            for name, value in vars(module).copy().items():
                if isinstance(value, JITFunction):
                    function = InterpretedFunction(value.fn)
                    monkeypatch.setattr(module, name, Interpreted(function) if name.endswith("_kernel") else function)
        monkeypatch.setattr(common, "KERNEL_DEVICES", ("cpu",))
    seen: list[tuple[str, tuple[int, ...]]] = []
    run = common.Launch.run

    def counted(launch):
        function = getattr(launch.kernel, "function", launch.kernel)
        seen.append((function.fn.__name__.strip("_").removesuffix("_kernel"), launch.grid))
        run(launch)

    monkeypatch.setattr(common.Launch, "run", counted)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty gives with NaN
    yield seen
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["kernel", "library"])
def path(request):
    """Both ways to compute. Gives the device."""
    if request.param == "kernel":
        request.getfixturevalue("launches")
        return DEVICE
    return "cpu"
