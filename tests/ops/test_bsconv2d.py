"""The fused blueprint separable convolution against its definition in float64.

Without a GPU the kernel runs in Triton's interpreter, by a stand-in that leaves other kernels of the process alone;
with one, the same tests run it compiled. Either way it goes through the registered operator.
"""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nsrlib.layers import BSConvU, merge_bsconv
from nsrlib.ops.bsconv2d import bsconv2d, bsconv2d_ref

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ACTIVATIONS = [None, "gelu", "relu"]
CHANNELS_LAST = torch.channels_last
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)

CASES = {
    "one pixel, one channel": ((7, 1, 1, 1), 1),
    "one row": ((1, 5, 1, 35), 7),
    "one column": ((2, 6, 11, 1), 16),
    "one past a strip and past a chunk of rows": ((2, 12, 9, 33), 50),
    "full blocks": ((2, 64, 16, 32), 64),
    "one past a block of channels": ((1, 65, 3, 5), 65),
    "50 to 64": ((2, 50, 5, 9), 64),
}


def tensors(shape, c_out, dtype, device, k=3, seed=0) -> dict[str, Tensor]:
    """Operands, of the sizes that trained networks have."""
    n, c_in, h, w = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size, scale=1.0):
        return (scale * torch.randn(size, generator=generator)).to(device, dtype)

    return {
        "x": draw(*shape),
        "pointwise": draw(c_out, c_in, 1, 1, scale=c_in**-0.5),
        "depthwise": draw(c_out, 1, k, k, scale=1 / k),
        "bias": draw(c_out),
        "residual": draw(n, c_out, h, w),
    }


def outputs(f, operands, activation, dy: Tensor) -> dict[str, Tensor]:
    """The result and the gradient of every operand."""
    leaves = {name: t.detach().requires_grad_() for name, t in operands.items() if t is not None}
    y = f(**{name: leaves.get(name) for name in operands}, activation=activation)
    y.backward(dy.to(y.dtype))
    return {"y": y.detach(), **{f"d_{name}": leaf.grad for name, leaf in leaves.items()}}


def assert_as_accurate(ours, eager, exact):
    """At most twice the error of plain PyTorch in the same dtype; float32's rounding is allowed on top."""
    for name, e in exact.items():
        error = max((other[name].double() - e).abs().max() for other in eager)
        allowed = 2 * error + torch.finfo(torch.float32).eps * e.abs().max()
        assert ours[name].dtype == eager[0][name].dtype
        assert (ours[name].double() - e).abs().max() <= allowed, name  # NaN fails too


def compare(operands, activation):
    exact_operands = {name: t if t is None else t.double() for name, t in operands.items()}
    before = bsconv2d_ref(**exact_operands, activation=None)
    dy = torch.randn(before.shape, generator=torch.Generator().manual_seed(1)).to(operands["x"])
    if activation == "relu":
        dy = dy * (before.abs() > 0.05)  # rounding decides on which side of the kink the others are
    exact = outputs(bsconv2d_ref, exact_operands, activation, dy)
    # PyTorch rounds in another order for each layout; in a small tensor either may be lucky
    layouts = [operands, {**operands, "x": operands["x"].contiguous(memory_format=CHANNELS_LAST)}]
    eager = [outputs(bsconv2d_ref, layout, activation, dy) for layout in layouts]
    assert_as_accurate(outputs(bsconv2d, operands, activation, dy), eager, exact)


@each_dtype
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_as_accurate_as_eager(path, case, dtype):
    compare(tensors(*CASES[case], dtype, path), "gelu")


@each_dtype
@pytest.mark.parametrize(("activation", "bias", "residual"), list(product(ACTIVATIONS, [True, False], [True, False])))
def test_every_epilogue_is_as_accurate_as_eager(path, activation, bias, residual, dtype):
    operands = tensors((2, 12, 3, 7), 16, dtype, path)
    compare(operands | ({} if bias else {"bias": None}) | ({} if residual else {"residual": None}), activation)


def _sliced(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(3)[..., ::2]


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=CHANNELS_LAST),
    "every second column": _sliced,
    "transposed": lambda x: x.mT.contiguous().mT,
    "a part of the channels": lambda x: torch.cat([x, x, x], 1)[:, x.shape[1] : 2 * x.shape[1]],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_the_input_will_do(path, layout):
    operands = tensors((2, 6, 5, 9), 6, torch.float32, path)
    x, residual = LAYOUTS[layout](operands["x"]), LAYOUTS[layout](operands["residual"])
    packed = {**operands, "x": x.contiguous(), "residual": residual.contiguous()}
    y = bsconv2d(**operands | {"x": x, "residual": residual})
    torch.testing.assert_close(y, bsconv2d(**packed), rtol=0, atol=0)
    assert y.is_contiguous(memory_format=CHANNELS_LAST)


def test_weights_may_have_any_strides(path):
    operands = tensors((1, 6, 5, 9), 8, torch.float32, path)
    strided = {name: _sliced(t) if name == "depthwise" else t for name, t in operands.items()}
    strided["pointwise"] = operands["pointwise"].transpose(0, 1).contiguous().transpose(0, 1)
    strided["bias"] = torch.stack([operands["bias"]] * 2, 1)[:, 0]
    torch.testing.assert_close(bsconv2d(**strided), bsconv2d(**operands), rtol=0, atol=0)


def surrounded(t: Tensor) -> Tensor:
    """The same, channels last, amid NaN."""
    n, c, h, w = t.shape
    around = torch.full((t.numel() + 20000,), torch.nan, device=t.device, dtype=t.dtype)
    return around[10000:-10000].view(n, h, w, c).permute(0, 3, 1, 2).copy_(t)


def test_the_kernel_reads_nothing_outside_its_input(launches):
    for shape in ((2, 12, 9, 33), (1, 16, 1, 1)):
        operands = tensors(shape, 16, torch.float32, DEVICE)
        y = bsconv2d(**operands | {"x": surrounded(operands["x"])})
        torch.testing.assert_close(y, bsconv2d(**operands), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["gelu", None])
@pytest.mark.parametrize("shape", [(1, 12, 9, 33, 50), (2, 20, 3, 5, 16)], ids=str)
def test_the_backward_kernels_give_every_gradient_to_float32s_rounding(launches, shape, activation):
    """In float32, which takes the library elsewhere: the types that come here hide much in their rounding."""
    from nsrlib.ops.bsconv2d import kernels

    *shape, c_out = shape
    operands = tensors(shape, c_out, torch.float32, DEVICE)
    dy = tensors((shape[0], c_out, *shape[2:]), c_out, torch.float32, DEVICE, seed=1)["x"]
    exact = outputs(bsconv2d_ref, {name: t.double() for name, t in operands.items()}, activation, dy)
    x, *rest = operands.values()
    dx, weights, inner = kernels.backward(surrounded(dy), surrounded(x), *rest, activation, "tf32x3")
    parts = weights.split([operands[name].numel() for name in ("pointwise", "depthwise", "bias")])
    found = dict(zip(("d_x", "d_pointwise", "d_depthwise", "d_bias"), (dx, *parts), strict=True))
    for name, gradient in (found | ({"d_residual": inner} if activation else {})).items():
        error = (gradient.double().flatten() - exact[name].flatten()).abs().max()
        assert error <= 3e-6 * exact[name].abs().max(), name  # sums of 600 terms, each rounded to 6e-8


def bfloat16_leaves(activation):
    operands = tensors((1, 12, 9, 17), 16, torch.bfloat16, DEVICE)
    leaves = {name: t.requires_grad_() for name, t in operands.items()}
    return bsconv2d(**leaves, activation=activation), list(leaves.values())


@pytest.mark.parametrize(("activation", "kernels"), [("gelu", ["fwd", "bwd"]), ("relu", ["bwd"]), (None, ["bwd"])])
def test_the_whole_backward_pass_is_one_kernel_or_two(launches, activation, kernels):
    y, leaves = bfloat16_leaves(activation)
    del launches[:]
    assert None not in torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert [name for name, _ in launches] == [f"bsconv2d_{k}" for k in kernels]


def test_gradients_of_gradients_take_the_library(launches):
    y, leaves = bfloat16_leaves("gelu")
    del launches[:]
    first = torch.autograd.grad(y.sum(), leaves[0], create_graph=True)[0]
    assert torch.autograd.grad(first.sum(), leaves[1])[0].abs().max() > 0
    assert launches == []


def test_nan_and_infinity_go_through(path):
    operands = tensors((1, 4, 5, 6), 16, torch.float32, path)
    operands["x"][0, 0, 2, 3] = torch.nan
    for activation in ACTIVATIONS:
        nan = bsconv2d(**operands, activation=activation).isnan()
        assert torch.equal(nan, bsconv2d_ref(**operands, activation=activation).isnan())


def test_the_kernel_is_what_runs(launches):
    bsconv2d(**tensors((2, 12, 9, 33), 16, torch.float32, DEVICE))
    assert launches == [("bsconv2d_fwd", (2 * 3 * 2,))]  # images, strips of 16 columns, chunks of 8 rows
    bsconv2d(**tensors((2, 12, 9, 33), 16, torch.bfloat16, DEVICE))
    assert launches[1:] == [("bsconv2d_fwd", (2 * 2 * 2,))]


@pytest.mark.parametrize("k", [1, 5, 7])
def test_other_kernel_sizes_take_the_library(path, k):
    compare(tensors((2, 5, 6, 9), 8, torch.float32, path, k), "gelu")


def test_bias_activation_and_residual_are_optional(path):
    operands = tensors((1, 5, 4, 6), 8, torch.float32, path)
    x, pointwise, depthwise = operands["x"], operands["pointwise"], operands["depthwise"]
    y = bsconv2d(x, pointwise, depthwise)
    torch.testing.assert_close(y, bsconv2d(x, pointwise, depthwise, None, None, None), rtol=0, atol=0)
    torch.testing.assert_close(y, bsconv2d_ref(x, pointwise, depthwise))


def test_an_empty_batch_gives_an_empty_result(path):
    operands = tensors((0, 5, 6, 9), 8, torch.float32, path)
    assert bsconv2d(**operands).shape == (0, 8, 6, 9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 34), st.integers(1, 10), st.integers(1, 34)),
    st.integers(1, 34),
    st.sampled_from(DTYPES),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)
@example((1, 17, 10, 17), 33, torch.float32, "relu", True)
def test_any_shape_is_as_accurate_as_eager(launches, shape, c_out, dtype, activation, residual):
    operands = tensors(shape, c_out, dtype, DEVICE)
    compare(operands if residual else {**operands, "residual": None}, activation)


def gradcheck(shape, activation, k, fast_mode=False):
    leaves = [t.requires_grad_() for t in tensors(shape, 2, torch.float64, "cpu", k).values()]

    def f(x, pointwise, depthwise, bias, residual):
        return bsconv2d(x, pointwise, depthwise, bias, activation, residual)

    assert torch.autograd.gradcheck(f, leaves, fast_mode=fast_mode)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=fast_mode)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_and_theirs_pass_gradcheck_along_random_directions(activation, k):
    gradcheck((2, 3, 4, 5), activation, k, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_gradients_and_theirs_pass_gradcheck_element_by_element(activation, k):
    gradcheck((2, 3, 4, 5), activation, k)


def test_only_gradients_asked_for_are_computed():
    operands = tensors((1, 3, 4, 5), 2, torch.float32, "cpu")
    for wanted in operands:
        leaves = {name: t.detach().requires_grad_(name == wanted) for name, t in operands.items()}
        bsconv2d(**leaves, activation="gelu").sum().backward()
        assert [name for name, t in leaves.items() if t.grad is not None] == [wanted]


def test_the_residual_may_be_the_input_itself(path):
    operands = tensors((1, 16, 5, 9), 16, torch.float32, path)
    x, rest = operands["x"].requires_grad_(), {k: v for k, v in operands.items() if k not in ("x", "residual")}
    exact = x.detach().double().requires_grad_()
    bsconv2d(x, **rest, activation="gelu", residual=x).square().sum().backward()
    wide = {name: t.double() for name, t in rest.items()}
    bsconv2d_ref(exact, **wide, activation="gelu", residual=exact).square().sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


def keep(kept: list[int], t: Tensor) -> Tensor:
    kept.append(t.data_ptr())
    return t


def kept_for_backward(activation, device) -> int:
    """Tensors that autograd keeps beyond operands and result."""
    operands = tensors((1, 8, 6, 5), 8, torch.float32, device)
    for name in ("x", "residual"):
        operands[name] = operands[name].contiguous(memory_format=CHANNELS_LAST)
    operands = {name: t.requires_grad_() for name, t in operands.items()}
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(partial(keep, kept), lambda t: t):
        y = bsconv2d(**operands, activation=activation)
    return len(set(kept) - {t.data_ptr() for t in (*operands.values(), y)})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_but_inputs_and_result_is_kept_where_kernels_run(launches, activation):
    assert kept_for_backward(activation, DEVICE) == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_cpu_keeps_what_is_faster_to_read_than_to_compute_again(activation):
    assert kept_for_backward(activation, "cpu") == (2 if activation == "gelu" else 1)  # z, what goes into the GELU


OPCHECKS = {
    "gelu": (lambda x: x, "gelu", True),
    "channels last, relu": (LAYOUTS["channels last"], "relu", True),
    "non-contiguous": (LAYOUTS["every second column"], None, False),
    "one pixel": (lambda x: x[:1, :, :1, :1], "relu", True),
}


@pytest.mark.parametrize("case", OPCHECKS)
def test_opcheck_is_clean(path, case):
    layout, activation, optional = OPCHECKS[case]
    t = tensors((2, 5, 4, 9), 6, torch.float32, path)
    t |= {"x": layout(t["x"]), "residual": layout(t["residual"])}
    leaves = [v.requires_grad_() if optional or name not in ("bias", "residual") else None for name, v in t.items()]
    torch.library.opcheck(torch.ops.nsrlib.bsconv2d, (*leaves, activation, "tf32x3"))


def test_opcheck_of_the_backward_operator_is_clean(launches):
    operands = tensors((1, 5, 2, 3), 6, torch.bfloat16, DEVICE)
    arguments = (torch.ones_like(operands["residual"]), *operands.values(), "gelu", "tf32x3")
    torch.library.opcheck(torch.ops.nsrlib.bsconv2d_backward, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_it_compiles_into_one_graph(backend):
    operands = tensors((2, 5, 6, 9), 6, torch.float32, "cpu")
    compiled = torch.compile(bsconv2d, fullgraph=True, backend=backend)
    if backend == "inductor":  # quick, because there is nothing to generate code for
        for name in ("x", "residual"):
            operands[name] = operands[name].contiguous(memory_format=CHANNELS_LAST)
        torch.testing.assert_close(compiled(**operands, activation="gelu"), bsconv2d(**operands, activation="gelu"))
        return
    dy = torch.randn(2, 6, 6, 9)
    plain, ours = (outputs(f, operands, "gelu", dy) for f in (bsconv2d, compiled))
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], msg=name)


def test_vmap_maps_results():
    x = torch.randn(3, 2, 5, 6, 9)
    operands = tensors((2, 5, 6, 9), 6, torch.float32, "cpu")
    rest = {name: operands[name] for name in ("pointwise", "depthwise", "bias")}
    y = torch.vmap(lambda x: bsconv2d(x, **rest, activation="gelu"))(x)
    for i in range(3):
        torch.testing.assert_close(y[i], bsconv2d(x[i], **rest, activation="gelu"))


def test_autocast_casts_as_it_does_for_convolutions():
    operands = tensors((1, 5, 6, 9), 6, torch.float32, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        y = bsconv2d(**operands, activation="relu")
    cast = {name: t.bfloat16() for name, t in operands.items()}
    torch.testing.assert_close(y, bsconv2d(**cast, activation="relu"), rtol=0, atol=0)


def flops(f, operands, backward):
    operands = {name: t.requires_grad_() for name, t in operands.items()}
    with FlopCounterMode(display=False) as counter:
        y = f(**operands)
        if backward:
            y.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_two_convolutions(device):
    operands = {name: t.to(device) for name, t in tensors((2, 5, 6, 9), 8, torch.float32, "cpu").items()}
    assert flops(bsconv2d, operands, False) == flops(bsconv2d_ref, operands, False) == 2 * 2 * 6 * 9 * 8 * (5 + 9)
    assert flops(bsconv2d, operands, True) == flops(bsconv2d_ref, operands, True)


@pytest.mark.parametrize("activation", ["gelu", None])
def test_flops_where_kernels_run_count_what_is_computed_again(launches, activation):
    operands = tensors((2, 5, 6, 9), 8, torch.float32, DEVICE)
    products, taps = 2 * 2 * 6 * 9 * 8 * 5, 2 * 2 * 6 * 9 * 8 * 9
    again = products + (taps if activation else 0)
    f, eager = (partial(g, activation=activation) for g in (bsconv2d, bsconv2d_ref))
    assert flops(f, operands, True) == flops(eager, operands, True) + again
    if activation:
        again += products  # each of the two kernels, which 16 bits take, computes z
    operands = {name: t.detach().bfloat16() for name, t in operands.items()}
    assert flops(f, operands, True) == 3 * (products + taps) + again


def test_it_equals_the_layer_and_the_merged_dense_convolution(path):
    torch.manual_seed(0)
    layer = BSConvU(12, 16).to(path)
    x = torch.randn(2, 12, 7, 9, device=path)
    y = bsconv2d(x, layer.pw.weight, layer.dw.weight, layer.dw.bias)
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(y, merge_bsconv(layer)(x))


def test_rows_are_shared_out_to_fill_the_device():
    pytest.importorskip("triton")
    from nsrlib.ops.bsconv2d.kernels import rows_per_program

    assert rows_per_program(180, columns=10, slots=396) == 8
    assert rows_per_program(1080, columns=60, slots=396) == 180
    assert rows_per_program(48, columns=32, slots=396) == 8
    assert rows_per_program(48, columns=100_000, slots=396) == 48
    for height, columns in product((1, 7, 8, 9, 1000), (1, 100, 10_000)):
        assert 8 <= rows_per_program(height, columns, 396) <= max(8, height)


def tf32(x: Tensor) -> Tensor:
    """Round to a 10-bit mantissa, ties away from zero, as ``cvt.rna.tf32.f32`` does."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("c_in", [12, 64, 256])
def test_three_tf32_products_err_little_more_than_float32(c_in):
    """Why ``tf32x3`` is the default: the interpreter multiplies exactly, so its rounding is played through here."""
    torch.manual_seed(0)
    a, b = torch.randn(64, c_in), torch.randn(c_in, 4096)
    exact = a.double() @ b.double()
    big_a, big_b = tf32(a), tf32(b)
    three = big_a @ tf32(b - big_b) + tf32(a - big_a) @ big_b + big_a @ big_b

    def error(product):
        return (product - exact).square().mean().sqrt()

    assert error(three) <= 2 * error(a @ b)
    assert error(big_a @ big_b) > 500 * error(a @ b)


# --- validation -------------------------------------------------------------------------------------------------------

BAD = {
    "rank": ({"x": torch.zeros(5, 6, 7)}, ValueError, r"x must be \(N, C_in, H, W\), got \(5, 6, 7\)"),
    "integers": ({"x": torch.zeros(1, 5, 6, 7, dtype=torch.int32)}, TypeError, "x must be .*float64, got torch.int32"),
    "pointwise rank": ({"pointwise": torch.zeros(8, 5)}, ValueError, r"pointwise must be .*, got \(8, 5\)"),
    "pointwise size": ({"pointwise": torch.zeros(8, 5, 3, 3)}, ValueError, r"pointwise must be .*\(8, 5, 3, 3\)"),
    "channels": ({"pointwise": torch.zeros(8, 4, 1, 1)}, ValueError, r"pointwise .* takes 4 channels, x has 5"),
    "depthwise rank": ({"depthwise": torch.zeros(8, 3, 3)}, ValueError, r"depthwise must be .*, got \(8, 3, 3\)"),
    "not square": ({"depthwise": torch.zeros(8, 1, 3, 5)}, ValueError, r"depthwise must be .*\(8, 1, 3, 5\)"),
    "not depthwise": ({"depthwise": torch.zeros(8, 8, 3, 3)}, ValueError, r"depthwise must be .*\(8, 8, 3, 3\)"),
    "widths differ": ({"depthwise": torch.zeros(7, 1, 3, 3)}, ValueError, "depthwise .* has 7 channels, pointwise 8"),
    "even K": ({"depthwise": torch.zeros(8, 1, 4, 4)}, ValueError, "depthwise .* odd kernel size, got 4"),
    "bias": ({"bias": torch.zeros(5)}, ValueError, r"bias must be \(8,\) to fit pointwise, got \(5,\)"),
    "residual": (
        {"residual": torch.zeros(1, 5, 6, 7)},
        ValueError,
        r"residual must be \(1, 8, 6, 7\) as the result, got \(1, 5, 6, 7\)",
    ),
    "types": ({"bias": torch.zeros(8).half()}, TypeError, "bias is torch.float16, x is torch.float32"),
    "devices": ({"depthwise": torch.zeros(8, 1, 3, 3, device="meta")}, ValueError, "depthwise is on meta, x is on cpu"),
    "activation": ({"activation": "swish"}, ValueError, "activation must be one of None, 'gelu', 'relu', got 'swish'"),
    "precision": ({"float32_precision": "bf16"}, ValueError, "float32_precision must be one of tf32x3, .* got 'bf16'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_value(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        bsconv2d(**{**tensors((1, 5, 6, 7), 8, torch.float32, "cpu"), **change})


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("precision", ["tf32x3", "ieee"])
def test_float32_precision_holds_on_the_gpu(precision):
    operands = tensors((2, 64, 70, 90), 64, torch.float32, DEVICE)
    exact = bsconv2d_ref(**{name: t.double() for name, t in operands.items()})
    with torch.backends.cudnn.flags(allow_tf32=False):
        eager = bsconv2d_ref(**operands)
    ours = bsconv2d(**operands, float32_precision=precision)
    assert F.mse_loss(ours.double(), exact) <= 4 * F.mse_loss(eager.double(), exact)
