"""The adder layer: CPU path and kernels against the float64 definition, registration, errors.

Where there is a GPU the kernels are compiled; elsewhere Triton's interpreter runs them on CPU tensors. It is
long because every path is held against the same table of cases.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nsrlib.ops import adder2d, adder2d_int8, common
from nsrlib.ops.adder2d import adder2d_grads_ref, adder2d_int8_ref, adder2d_ref, cpu, quantize_int8
from nsrlib.ops.common import pair

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# (N, C, H, W), O, kernel, stride, padding
CASES = {
    "one": ((1, 1, 1, 1), 1, (1, 1), (1, 1), (0, 0)),
    "3x3": ((2, 3, 9, 7), 5, (3, 3), (1, 1), (1, 1)),
    "one-past-a-block": ((1, 9, 1, 257), 17, (1, 1), (1, 1), (0, 0)),
    "one-short-of-a-block": ((1, 7, 15, 17), 15, (3, 3), (1, 1), (1, 1)),
    "stride": ((1, 4, 11, 8), 3, (3, 2), (2, 3), (1, 0)),
    "padding-beyond-kernel": ((1, 2, 4, 5), 3, (2, 1), (1, 2), (3, 2)),
    "rows-in-a-loop": ((2, 3, 8, 9), 4, (7, 5), (2, 1), (3, 2)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_rule = pytest.mark.parametrize("gradient", ["adder", "sign"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)


def sample(case, dtype=torch.float64, device="cpu", seed=0):
    """Input, weight and output gradient; the same values whatever the dtype they are rounded to."""
    (n, c, h, w), o, kernel, stride, padding = case
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    weight = torch.randn(o, c, *kernel, generator=rng, dtype=torch.float64)
    oh, ow = ((s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), padding, kernel, stride, strict=True))
    grad = torch.randn(n, o, oh, ow, generator=rng, dtype=torch.float64)
    return [t.to(device, dtype) for t in (x, weight, grad)]


def reference(x, weight, grad, stride, padding, gradient):
    y = adder2d_ref(x, weight, stride, padding)
    dx, dw = adder2d_grads_ref(grad, x, weight, stride, padding, gradient)
    return {"y": y, "dx": dx, "dw": dw}


def run_public(x, weight, grad, stride, padding, gradient):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = adder2d(x, weight, stride, padding, gradient=gradient)
    dx, dw = torch.autograd.grad(y, (x, weight), grad)
    return {"y": y.detach(), "dx": dx, "dw": dw}


def assert_as_accurate_as_eager(ours, inputs, stride, padding, gradient):
    """At most twice the error of eager PyTorch in the same dtype, and a few units in the last place of the largest."""
    exact = reference(*(t.double() for t in inputs), stride, padding, gradient)
    eager = reference(*inputs, stride, padding, gradient)
    for name, value in exact.items():
        assert ours[name].dtype == inputs[0].dtype
        assert ours[name].shape == value.shape
        if value.numel():
            allowed = 2 * (eager[name].double() - value).abs().max() + 1e-6
            assert (ours[name].double() - value).abs().max() <= allowed, name


def test_the_weight_gradient_s_convolution_leaves_cudnn_s_settings_alone_but_for_tf32(monkeypatch):
    seen = []

    def flags(**changes):
        seen.append(changes)
        return nullcontext()

    monkeypatch.setattr(torch.backends.cudnn, "flags", flags)
    x, weight, grad = sample(CASES["3x3"], torch.float32)
    cpu.weight_grad(grad, x, weight, (1, 1), (1, 1))
    kept = {name: getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    assert seen == [{**kept, "allow_tf32": False}]


# definition


@each_case
@each_rule
def test_the_definition_agrees_with_loops(case, gradient):
    x, weight, grad = sample(case)
    *_, stride, padding = case
    (h, w), (kh, kw), (oh, ow) = x.shape[2:], weight.shape[2:], grad.shape[2:]
    padded = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    y, dx, dw = torch.zeros_like(grad), torch.zeros_like(padded), torch.zeros_like(weight)
    for i in range(oh):
        for j in range(ow):
            at = (
                slice(None),
                slice(None),
                slice(i * stride[0], i * stride[0] + kh),
                slice(j * stride[1], j * stride[1] + kw),
            )
            t = weight[None] - padded[at][:, None]  # (N, O, C, KH, KW)
            g = grad[:, :, i, j][:, :, None, None, None]
            y[:, :, i, j] = -t.abs().flatten(2).sum(2)
            dx[at] += ((t.clamp(-1, 1) if gradient == "adder" else t.sign()) * g).sum(1)
            dw -= ((t if gradient == "adder" else t.sign()) * g).sum(0)
    dx = dx[:, :, padding[0] : padding[0] + h, padding[1] : padding[1] + w]
    for name, value in reference(x, weight, grad, stride, padding, gradient).items():
        torch.testing.assert_close(value, {"y": y, "dx": dx, "dw": dw}[name], rtol=0, atol=1e-12, msg=name)


def test_raising_a_bright_image_by_one_lowers_the_output_by_the_valid_taps():
    weight = sample(((1, 4, 5, 5), 4, (3, 3), (1, 1), (1, 1)))[1]
    x = weight.abs().max() + torch.rand(1, 4, 5, 5, dtype=torch.float64) + 0.1
    change = adder2d(x + 1, weight, padding=1) - adder2d(x, weight, padding=1)
    expected = torch.full((5, 5), -36.0, dtype=torch.float64)
    expected[[0, -1], :] = expected[:, [0, -1]] = -24
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = -16
    torch.testing.assert_close(change, expected.expand(1, 4, 5, 5), rtol=0, atol=1e-12)


# CPU paths


@pytest.fixture(params=["cdist", "native"])
def path(request):
    """The modules that compute on a CPU."""
    if request.param == "cdist":
        return cpu
    pytest.importorskip("numba")
    from nsrlib.ops.adder2d import native

    return native


def run_path(path, x, weight, grad, stride, padding, gradient):
    arguments = grad, x, weight, pair(stride), pair(padding)
    weight_grad = path.weight_sign_grad if gradient == "sign" else cpu.weight_grad
    return {
        "y": path.forward(*arguments[1:]),
        "dx": path.input_grad(*arguments, gradient),
        "dw": weight_grad(*arguments),
    }


@each_case
@each_rule
def test_float64_equals_the_definition(case, gradient):
    *_, stride, padding = case
    inputs = sample(case)
    expected = reference(*inputs, stride, padding, gradient)
    for name, value in run_public(*inputs, stride, padding, gradient).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-11, msg=name)


@each_case
@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_cpu_path_is_as_accurate_as_eager(path, case, dtype, gradient):
    *_, stride, padding = case
    inputs = sample(case, dtype)
    assert_as_accurate_as_eager(run_path(path, *inputs, stride, padding, gradient), inputs, stride, padding, gradient)
    assert_as_accurate_as_eager(run_public(*inputs, stride, padding, gradient), inputs, stride, padding, gradient)


@each_rule
def test_a_cpu_path_is_as_accurate_as_eager_over_576_taps(path, gradient):
    inputs = sample(((1, 64, 9, 8), 64, (3, 3), (1, 1), (1, 1)), torch.float32)
    assert_as_accurate_as_eager(run_path(path, *inputs, 1, 1, gradient), inputs, 1, 1, gradient)


@each_rule
def test_small_blocks_change_nothing(monkeypatch, gradient):
    inputs = sample(CASES["rows-in-a-loop"])
    expected = run_path(cpu, *inputs, (2, 1), (3, 2), gradient)
    monkeypatch.setattr(cpu, "CPU_BLOCK", 1)
    for name, value in run_path(cpu, *inputs, (2, 1), (3, 2), gradient).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=name)


@each_rule
def test_threads_change_nothing(gradient):
    """2000 pixels are several blocks for each of three threads."""
    pytest.importorskip("numba")
    inputs = sample(((2, 5, 40, 50), 6, (3, 3), (1, 1), (1, 1)), torch.float32)
    threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(run_public(*inputs, (1, 1), (1, 1), gradient))
    torch.set_num_threads(threads)
    for name, value in found[0].items():
        if (name, gradient) != ("dw", "adder"):  # a convolution of PyTorch's
            assert torch.equal(value, found[1][name]), name


@each_rule
@pytest.mark.parametrize("place", ["x", "weight"])
def test_nan_and_infinity_reach_what_they_touch(path, place, gradient):
    x, weight, grad = sample(CASES["3x3"], torch.float32)
    spoilt = {"x": x, "weight": weight}[place]
    spoilt[0, 0, 1, 1], spoilt[1, 2, 2, 0] = torch.nan, torch.inf
    exact = reference(x, weight, grad, (1, 1), (1, 1), gradient)
    found = run_path(path, x, weight, grad, (1, 1), (1, 1), gradient)
    torch.testing.assert_close(found["y"], exact["y"], equal_nan=True)
    if gradient == "adder":
        torch.testing.assert_close(found["dx"], exact["dx"], equal_nan=True)


@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 8), st.integers(1, 8)),
    o=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    gradient=st.sampled_from(["adder", "sign"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cpu_path_equals_the_definition_for_any_shape(path, shape, o, kernel, stride, padding, gradient):
    padding = tuple(max(p, k - s) for p, k, s in zip(padding, kernel, shape[2:], strict=True))
    inputs = sample((shape, o, kernel, stride, padding), torch.float32)
    expected = reference(*(t.double() for t in inputs), stride, padding, gradient)
    for name, value in run_path(path, *inputs, stride, padding, gradient).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_weight_gradient_of_many_pixels_errs_no_more_than_eagers():
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(size, generator=generator) for size in ((2, 64, 16, 32), (64, 64, 3, 3), (2, 64, 16, 32))
    )
    exact, eager = (
        adder2d_grads_ref(*(t.to(d) for t in (grad, x, weight)), 1, 1)[1] for d in (torch.float64, torch.float32)
    )
    found = cpu.weight_grad(grad, x, weight, (1, 1), (1, 1))
    assert (found - exact).abs().max() <= 2 * (eager - exact).abs().max()


def test_without_numba_a_line_says_what_runs_instead():
    program = """
import logging, sys
sys.modules["numba"] = None
logging.basicConfig(format="%(message)s")
import torch
from nsrlib.ops import adder2d
x, weight = torch.rand(1, 2, 5, 5), torch.rand(3, 2, 3, 3)
for _ in range(2):
    print(round(adder2d(x, weight).sum().item(), 3) < 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True\nTrue\n"
    assert re.fullmatch(r"adder2d takes torch\.cdist, about ten times slower on a CPU: .*numba.*\n", done.stderr)


def test_sign_gradient_passes_gradcheck():
    x, weight, _ = sample(((2, 2, 4, 3), 3, (2, 3), (1, 1), (1, 1)))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: adder2d(a, b, 1, 1, gradient="sign"), (x, weight))


def test_adder_gradient_is_not_the_derivative():
    x, weight, _ = sample(((1, 1, 3, 3), 2, (2, 2), (1, 1), (0, 0)))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(adder2d, (x.requires_grad_(), weight))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(adder2d, (x.detach(), weight.requires_grad_()))


def test_only_the_gradients_asked_for_are_computed():
    x, weight, grad = sample(CASES["3x3"], torch.float32)
    with FlopCounterMode(display=False) as counter:
        adder2d(x, weight.requires_grad_(), 1, 1).backward(grad)
    assert not {torch.ops.nsrlib.adder2d_input_grad, torch.ops.nsrlib.adder2d_grads} & set(
        counter.get_flop_counts()["Global"]
    )
    assert x.grad is None


def test_second_derivatives_raise():
    x, weight, _ = sample(CASES["3x3"])
    y = adder2d(x.requires_grad_(), weight, 1, 1)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        dx.sum().backward()


# kernels


@each_case
@each_rule
@each_dtype
def test_kernels_are_as_accurate_as_eager(launches, case, dtype, gradient):
    *_, stride, padding = case
    inputs = sample(case, dtype, DEVICE)
    ours = run_public(*inputs, stride, padding, gradient)
    assert_as_accurate_as_eager(ours, inputs, stride, padding, gradient)
    backward = ["adder2d_pack_bwd", "adder2d_bwd_weight", "adder2d_bwd_input"]
    assert [name for name, _ in launches] == ["adder2d_fwd", *backward]


@each_rule
@each_dtype
def test_one_gradient_is_what_both_are(launches, gradient, dtype):
    x, weight, grad = sample(CASES["stride"], dtype, DEVICE)
    both = run_public(x, weight, grad, (2, 3), (1, 0), gradient)
    for name, leaf in (("dx", x), ("dw", weight)):
        y = adder2d(
            x.requires_grad_(leaf is x), weight.requires_grad_(leaf is weight), (2, 3), (1, 0), gradient=gradient
        )
        assert torch.equal(*torch.autograd.grad(y, leaf, grad), both[name])


MOVE_NOTHING = {
    f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "view", "select", "detach", "as_strided")
}


@pytest.fixture
def launched(launches, monkeypatch):
    """Everything that a GPU would be told to do by a call: our kernels, which are not run, and PyTorch's."""

    def names(call):
        launches.clear()
        monkeypatch.setattr(common.Launch, "run", lambda launch: launches.append(launch.kernel))
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        pytorch = [e.name for e in profile.events() if e.name.startswith("aten::") and e.name not in MOVE_NOTHING]
        return launches + pytorch

    return names


LARGE = ((8, 64, 64, 64), 64, (3, 3), (1, 1), (1, 1))


@each_rule
@each_dtype
@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("case", [CASES["3x3"], CASES["stride"], LARGE], ids=["3x3", "stride", "large"])
def test_a_pass_forward_is_two_launches_at_most_and_one_backward_three(launched, case, last, dtype, gradient):
    *_, stride, padding = case
    x, weight, grad = sample(case, dtype, DEVICE)
    if last:
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    for wanted, count in (((True, False), 2), ((False, True), 3), ((True, True), 3)):
        leaves = [t.requires_grad_(need) for t, need in zip((x, weight), wanted, strict=True)]
        made: list[torch.Tensor] = []
        forward = launched(
            lambda leaves=leaves, made=made: made.append(adder2d(*leaves, stride, padding, gradient=gradient))
        )
        assert len(forward) == (2 if last or case is LARGE else 1), forward  # filters are packed for large results
        inputs = [t for t in leaves if t.requires_grad]
        backward = launched(lambda made=made, inputs=inputs: torch.autograd.grad(made, inputs, grad))
        assert len(backward) == count, backward


@pytest.mark.parametrize(("channels", "pixels"), [(64, 128), (256, 256)])
def test_the_tile_is_halved_where_whole_ones_leave_the_gpu_idle(channels, pixels):
    """132 processors: 2.2 waves of whole tiles at 64 channels take as long as 3, 8.7 as 9."""
    pytest.importorskip("triton")
    from nsrlib.ops.adder2d.launches import forward_launches

    x = torch.empty(16, channels, 48, 48, device="meta")
    weight = torch.empty(channels, channels, 3, 3, device="meta")
    assert forward_launches(x, weight, x, (1, 1), (1, 1))[-1].arguments["BLOCK_P"] == pixels


def test_int8_is_two_launches(launched):
    x, weight = sample_int8(((2, 6, 5, 6), 3, (3, 3)), DEVICE)
    assert len(launched(lambda: adder2d_int8(x, weight, 1, 1))) == 2


@pytest.mark.slow
def test_kernels_are_as_accurate_as_eager_over_576_taps(launches):
    inputs = sample(((1, 64, 5, 5), 32, (3, 3), (1, 1), (1, 1)), torch.float32, DEVICE)
    ours = run_public(*inputs, (1, 1), (1, 1), "adder")
    assert_as_accurate_as_eager(ours, inputs, (1, 1), (1, 1), "adder")


@each_rule
def test_kernels_accumulate_float64_in_float64(launches, gradient):
    *_, stride, padding = CASES["stride"]
    inputs = sample(CASES["stride"], device=DEVICE)
    expected = reference(*inputs, stride, padding, gradient)
    for name, value in run_public(*inputs, stride, padding, gradient).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=name)


@each_rule
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every second", "expanded"])
def test_kernels_read_any_layout(launches, layout, gradient):
    x, weight, grad = sample(((2, 4, 6, 6), 8, (3, 3), (1, 1), (1, 1)), torch.float32, DEVICE)
    if layout == "expanded":
        x, grad = x[:, :1].expand(-1, 4, -1, -1), grad[:1, :, :1].expand(2, -1, 6, -1)
    inputs = {
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.mT,
        "every second": lambda t: t.repeat_interleave(2, 3)[..., ::2],
        "expanded": lambda t: t,
    }
    inputs = [inputs[layout](t) for t in (x, weight, grad)]
    ours = run_public(*inputs, (1, 1), (1, 1), gradient)
    assert_as_accurate_as_eager(ours, inputs, (1, 1), (1, 1), gradient)
    if layout == "channels_last":
        assert all(ours[k].is_contiguous(memory_format=torch.channels_last) for k in ("y", "dx"))


def test_kernels_do_not_read_past_the_input(launches):
    """The tensors lie inside larger ones full of NaN; masks that let a neighbour in would show."""
    case = CASES["padding-beyond-kernel"]
    *_, stride, padding = case

    def surround(t):
        big = t.new_full([s + 4 for s in t.shape], float("nan"))
        inside = big[tuple(slice(2, -2) for _ in t.shape)]
        inside.copy_(t)
        return inside

    inputs = [surround(t) for t in sample(case, torch.float32, DEVICE)]
    for gradient in ("adder", "sign"):
        ours = run_public(*inputs, stride, padding, gradient)
        assert_as_accurate_as_eager(ours, inputs, stride, padding, gradient)


def test_kernels_take_bfloat16(launches):
    """Into float32 outputs: the interpreter truncates where it stores bfloat16, a GPU rounds."""
    *_, stride, padding = CASES["3x3"]
    x, weight, grad = sample(CASES["3x3"], torch.bfloat16, DEVICE)
    y, dx = grad.float(), x.float()
    dw = weight.float()
    from nsrlib.ops.adder2d.launches import backward_launches, forward_launches

    both = forward_launches(x, weight, y, stride, padding) + backward_launches(grad, x, weight, dx, dw, stride, padding)
    for launch in both:
        launch.run()
    expected = reference(x.double(), weight.double(), grad.double(), stride, padding, "adder")
    assert (y - expected["y"]).abs().max() < 1e-5
    assert (dx - expected["dx"]).abs().max() < 1e-5
    assert (dw - expected["dw"]).abs().max() < 1e-4


def test_kernel_gradient_at_nan_is_nan_and_nowhere_else(launches):
    x, weight, grad = sample(CASES["3x3"], torch.float32, DEVICE)
    x[1, 2, 3, 4] = float("nan")
    dx = run_public(x, weight, grad, 1, 1, "adder")["dx"]
    assert torch.equal(dx.isnan(), x.isnan())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
    o=st.integers(1, 18),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    gradient=st.sampled_from(["adder", "sign"]),
)
def test_kernels_are_right_for_any_shape(launches, shape, o, kernel, stride, padding, gradient):
    padding = tuple(max(p, k - s) for p, k, s in zip(padding, kernel, shape[2:], strict=True))
    inputs = sample((shape, o, kernel, stride, padding), torch.float32, DEVICE)
    ours = run_public(*inputs, stride, padding, gradient)
    assert_as_accurate_as_eager(ours, inputs, stride, padding, gradient)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@each_rule
def test_public_function_runs_the_kernels_on_a_gpu(gradient):
    inputs = sample(((2, 64, 33, 31), 64, (3, 3), (1, 1), (1, 1)), torch.float32, "cuda")
    assert_as_accurate_as_eager(run_public(*inputs, 1, 1, gradient), inputs, 1, 1, gradient)


# int8


def sample_int8(case, device="cpu"):
    (n, c, h, w), o, kernel, *_ = case
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (n, c, h, w), generator=rng, dtype=torch.int8)
    weight = torch.randint(-128, 128, (o, c, *kernel), generator=rng, dtype=torch.int8)
    x.view(-1)[0], weight.view(-1)[0] = -128, 127
    return x.to(device), weight.to(device)


@each_case
def test_int8_is_exact_on_a_cpu(case):
    *_, stride, padding = case
    x, weight = sample_int8(case)
    y = adder2d_int8(x, weight, stride, padding)
    assert y.dtype == torch.int32
    assert torch.equal(y, adder2d_int8_ref(x, weight, stride, padding))


@each_case
def test_int8_kernel_is_exact(launches, case):
    *_, stride, padding = case
    x, weight = sample_int8(case, DEVICE)
    assert torch.equal(adder2d_int8(x, weight, stride, padding), adder2d_int8_ref(x, weight, stride, padding))
    assert [name for name, _ in launches] == ["adder2d_pack", "adder2d_int8"]


@pytest.mark.parametrize("channels", [4, 6])
def test_int8_kernel_reads_channels_last_and_scales(launches, channels):
    x, weight = sample_int8(((2, channels, 5, 6), 3, (3, 3)), DEVICE)
    x = x.contiguous(memory_format=torch.channels_last)
    y = adder2d_int8(x, weight, 1, 1, scale=0.25)
    assert y.dtype == torch.float32
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y.double(), adder2d_int8_ref(x, weight, 1, 1) * 0.25)


def test_int8_output_is_the_float_output_up_to_rounding():
    x, weight, _ = sample(CASES["3x3"], torch.float32)
    scale = float(max(x.abs().max(), weight.abs().max())) / 127  # one step for both
    y = adder2d_int8(quantize_int8(x, scale), quantize_int8(weight, scale), 1, 1, scale=scale)
    taps = weight[0].numel()
    assert (y - adder2d(x, weight, 1, 1)).abs().max() <= taps * scale  # half a step for each of both terms


def test_int8_range_errors_name_both_values():
    with pytest.raises(ValueError, match=r"x spans -200 to 3 steps of scale 0\.01, int8 holds -128 to 127"):
        quantize_int8(torch.tensor([-2.0, 0.03]), 0.01)
    with pytest.raises(ValueError, match="x spans nan"):
        quantize_int8(torch.tensor([float("nan")]), 1.0)
    assert quantize_int8(torch.tensor([-2.0, 0.03]), 0.01, saturate=True).tolist() == [-128, 3]
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        quantize_int8(torch.ones(1), 0)
    with pytest.raises(
        TypeError, match=r"x must be torch.int8, got torch.int16 \(it holds -128 to 127\); see quantize_int8"
    ):
        adder2d_int8(torch.zeros(1, 1, 2, 2, dtype=torch.int16), torch.zeros(1, 1, 1, 1, dtype=torch.int16))
    many = 2**31 // 255 + 1
    x, weight = (torch.zeros(1, 1, 1, 1, dtype=torch.int8).expand(1, many, 1, 1) for _ in range(2))
    with pytest.raises(ValueError, match=f"weight has {many} taps a filter: sums up to {many * 255} exceed int32"):
        adder2d_int8(x, weight)


# registration


@each_rule
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck_is_clean(gradient, channels_last):
    x, weight, grad = sample(CASES["3x3"], torch.float32)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    options = ([1, 1], [1, 1], gradient)
    torch.library.opcheck(torch.ops.nsrlib.adder2d, (x.requires_grad_(), weight.requires_grad_(), *options))
    for op in (getattr(torch.ops.nsrlib, f"adder2d_{name}") for name in ("input_grad", "weight_grad", "grads")):
        torch.library.opcheck(op, (grad, x.detach(), weight.detach(), *options))
    xi, wi = sample_int8(CASES["3x3"])
    torch.library.opcheck(torch.ops.nsrlib.adder2d_int8, (xi, wi, [1, 1], [1, 1], None))


def test_compiles_without_a_graph_break():
    x, weight, _ = sample(CASES["3x3"], torch.float32)

    def layer(x, weight):
        return (x.relu() + adder2d(x, weight, 1, 1)[:, :3]).sum()

    def grads(f):
        inputs = [t.detach().requires_grad_() for t in (x, weight)]
        return torch.autograd.grad(f(*inputs), inputs)

    # aot_eager traces forward and backward as inductor does, but needs no C++ compiler
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(grads(compiled), grads(layer), strict=True))


def test_flops_are_two_additions_a_tap_even_without_data():
    x = torch.empty(2, 3, 9, 7, device="meta", requires_grad=True)
    weight = torch.empty(5, 3, 3, 3, device="meta", requires_grad=True)
    taps = 2 * 5 * 9 * 7 * 27
    with FlopCounterMode(display=False) as counter:
        y = adder2d(x, weight, 1, 1)
        assert counter.get_total_flops() == 2 * taps
        y.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.nsrlib.adder2d_grads] == (3 + 2) * taps
    for one, other, op, count in ((x, weight, "input_grad", 3), (weight, x, "weight_grad", 2)):
        leaves = [t if t is one else other.detach() for t in (x, weight)]
        with FlopCounterMode(display=False) as counter:
            adder2d(*leaves, 1, 1).sum().backward()
        assert counter.get_flop_counts()["Global"][getattr(torch.ops.nsrlib, f"adder2d_{op}")] == count * taps


def test_autocast_takes_16_bit_inputs_to_float32():
    x, weight, _ = sample(CASES["3x3"], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = adder2d(x.bfloat16(), weight, 1, 1)
        assert adder2d(x.double(), weight.double(), 1, 1).dtype == torch.float64
        with pytest.raises(TypeError, match=r"got torch\.int32"):
            adder2d(x.int(), weight, 1, 1)
    torch.testing.assert_close(y, adder2d(x.bfloat16().float(), weight, 1, 1), rtol=0, atol=0)
    assert y.dtype == torch.float32


def test_vmap_maps_results_and_gradients():
    x, weight, grad = (
        torch.stack([t] * 2) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1) for t in sample(CASES["3x3"])
    )
    y = torch.vmap(lambda x, weight: adder2d(x, weight, 1, 1))(x, weight)
    for i in range(2):
        torch.testing.assert_close(y[i], adder2d(x[i], weight[i], 1, 1))
    leaf = weight[0].clone().requires_grad_()
    once = adder2d(x[0], leaf, 1, 1)
    (batched,) = torch.autograd.grad(once, leaf, grad, is_grads_batched=True, retain_graph=True)
    for i in range(2):
        torch.testing.assert_close(batched[i], *torch.autograd.grad(once, leaf, grad[i], retain_graph=True))


# errors

GOOD = {"x": torch.zeros(1, 2, 5, 5), "weight": torch.zeros(3, 2, 3, 3)}


INT8 = {name: v.to(torch.int8) for name, v in GOOD.items()}
BAD = {
    "rank": ({"x": torch.zeros(2, 5, 5)}, ValueError, r"x must be \(N, C_in, H, W\), got \(2, 5, 5\)"),
    "integers": (
        INT8,
        TypeError,
        r"x must be torch\.float16, .*float64, got torch\.int8; adder2d_int8 takes torch\.int8",
    ),
    "weight rank": ({"weight": torch.zeros(3, 2, 9)}, ValueError, r"weight must be .*KW\), .*got \(3, 2, 9\)"),
    "no filters": ({"weight": torch.zeros(0, 2, 3, 3)}, ValueError, r"none of them 0, got \(0, 2, 3, 3\)"),
    "channels": ({"weight": torch.zeros(3, 4, 3, 3)}, ValueError, r"weight \(3, 4, 3, 3\) takes 4 channels, x has 2"),
    "types": ({"weight": torch.zeros(3, 2, 3, 3).half()}, TypeError, "weight is torch.float16, x is torch.float32"),
    "devices": ({"weight": torch.zeros(3, 2, 3, 3, device="meta")}, ValueError, "weight is on meta, x is on cpu"),
    "stride": ({"stride": 0}, ValueError, r"stride must be at least 1, got \(0, 0\)"),
    "one stride": ({"stride": (1, -2)}, ValueError, r"stride must be at least 1, got \(1, -2\)"),
    "padding": ({"padding": -1}, ValueError, r"padding must be at least 0, got \(-1, -1\)"),
    "too small": ({"x": torch.zeros(1, 2, 2, 5)}, ValueError, r"weight of \(3, 3\) exceeds x of \(2, 5\) with padding"),
    "gradient": ({"gradient": "tanh"}, ValueError, "gradient must be one of adder, sign, got 'tanh'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_value(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        adder2d(**{**GOOD, **change})
