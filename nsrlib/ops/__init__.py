"""Operators: a folder each, with reference, Triton kernels, CPU path, autograd and public function.

``nsrlib.ops.adder2d`` is the function, although its folder bears the same name, and ``import nsrlib.ops.adder2d as A``
therefore gives the function too. The rest of the folder comes by ``from``, as in
``from nsrlib.ops.adder2d import adder2d_ref, kernels``. The first call on a GPU imports the kernels, and Triton.
"""

from nsrlib.ops.adder2d import adder2d, adder2d_int8
from nsrlib.ops.bsconv2d import bsconv2d
from nsrlib.ops.mixed_conv2d import mixed_conv2d

__all__ = ["adder2d", "adder2d_int8", "bsconv2d", "mixed_conv2d"]
