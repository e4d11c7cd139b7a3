"""What a launch says where Triton's interpreter and numpy do not work together."""

from __future__ import annotations

import numpy
import pytest
import torch

from nsrlib.ops.common import Launch, interpreter_problem

triton = pytest.importorskip("triton")
from triton.runtime.errors import InterpreterError  # noqa: E402

MESSAGE = (
    "the interpreter of Triton 3.6.0 does not work with numpy 2.4.0: "
    "install 'numpy<2.4' or 'triton>=3.7' (kernels compiled for a GPU work with both)"
)


@pytest.fixture
def versions(monkeypatch):
    def pretend(of_triton, of_numpy):
        monkeypatch.setattr(triton, "__version__", of_triton)
        monkeypatch.setattr(numpy, "__version__", of_numpy)

    return pretend


def failing(error):
    """A launch of a kernel that ends in an error."""

    class Kernel:
        def __getitem__(self, grid):
            def launch(**arguments):
                raise error

            return launch

    return Launch(Kernel(), (1,), {"x_ptr": torch.zeros(1)})


@pytest.mark.parametrize(
    ("of_triton", "of_numpy", "works"),
    [
        ("3.6.0", "2.3.5", True),
        ("3.6.0", "2.4.0", False),
        ("3.6.0+git1234", "2.10.0rc1", False),
        ("3.7.0", "2.4.0", True),
        ("3.10.0", "2.5.2", True),
    ],
)
def test_the_interpreter_of_triton_3_6_wants_numpy_below_2_4(versions, of_triton, of_numpy, works):
    versions(of_triton, of_numpy)
    assert (interpreter_problem() is None) == works


def test_an_interpreted_kernel_names_the_versions_that_do_not_work_together(versions):
    versions("3.6.0", "2.4.0")
    with pytest.raises(RuntimeError) as caught:
        failing(InterpreterError("TypeError('only 0-dimensional arrays')")).run()
    assert str(caught.value) == MESSAGE


def test_every_other_error_of_a_launch_stays_what_it_is(versions):
    versions("3.6.0", "2.4.0")
    with pytest.raises(RuntimeError, match=r"^out of memory$"):  # of a compiled kernel
        failing(RuntimeError("out of memory")).run()
    versions("3.7.1", "2.4.0")
    with pytest.raises(InterpreterError, match="ZeroDivisionError"):
        failing(InterpreterError("ZeroDivisionError()")).run()
