"""The convolution with mixed kernels against its definition in float64, and against the paper's own formulation.
The file is long because one operator has three ways to compute, in two modes, and all tests take the same cases.

Without a GPU the kernels run in Triton's interpreter, by stand-ins that leave other kernels of the process alone; with
one, the same tests run them compiled. Either way they go through the registered operator.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nsrlib.ops import common, mixed_conv2d
from nsrlib.ops.mixed_conv2d import mixed_conv2d_ref
from nsrlib.ops.mixed_conv2d.gates import geometry

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MODES = ["soft", "hard"]
CHANNELS_LAST = torch.channels_last
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)

# (N, C_in, H, W), C_out, k, d, (KH, KW), stride, padding, tile
CASES = {
    "one": ((1, 1, 1, 1), 1, 1, 1, (1, 1), (1, 1), (0, 0), None),
    "3x3": ((3, 5, 7, 9), 6, 3, 2, (3, 3), (1, 1), (1, 1), None),
    "one past blocks of channels": ((1, 33, 3, 5), 65, 2, 5, (3, 3), (1, 1), (1, 1), None),
    "one past a block of pixels": ((2, 4, 3, 43), 4, 2, 4, (1, 3), (1, 1), (0, 1), None),
    "stride, padding, an oblong kernel": ((2, 3, 11, 8), 4, 2, 2, (3, 2), (2, 3), (1, 0), None),
    "tiles": ((1, 4, 17, 9), 4, 3, 2, (3, 3), (1, 1), (1, 1), (8, 9)),
    "tiles, stride, padding beyond the kernel": ((1, 2, 17, 17), 3, 2, 1, (2, 3), (2, 1), (3, 2), (8, 16)),
    "tiles larger than the image": ((2, 3, 5, 6), 4, 2, 4, (3, 3), (1, 1), (1, 1), (8, 9)),
    "small tiles": ((1, 4, 7, 9), 6, 3, 2, (3, 3), (1, 1), (1, 1), (3, 2)),
    "a gate a pixel": ((2, 3, 5, 6), 4, 2, 4, (3, 3), (1, 2), (1, 1), (1, 1)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_mode = pytest.mark.parametrize("mode", MODES)


def sample(case, dtype=torch.float64, device="cpu", seed=0) -> dict[str, Tensor]:
    """Operands, of the sizes that networks have; the gate is a softmax, and no two of its entries are close."""
    (n, c, h, w), c_out, k, d, kernel, stride, padding, tile = case
    rng = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=rng, dtype=torch.float64)

    out = [(s + 2 * p - q) // t + 1 for s, p, q, t in zip((h, w), padding, kernel, stride, strict=True)]
    tiles = [] if tile is None else [-(-o // t) for o, t in zip(out, tile, strict=True)]
    order = torch.rand((n, k, d, *tiles), generator=rng).argsort(1)
    operands = {
        "x": draw(n, c, h, w),
        "weight": draw(k * c_out, c, *kernel) * (c * kernel[0] * kernel[1]) ** -0.5,
        "gate": (order + 0.5 * torch.rand((n, k, d, *tiles), generator=rng)).double().softmax(1),
        "bias": draw(k * c_out),
        "grad": draw(n, c_out, *out),
    }
    return {name: t.to(device, dtype) for name, t in operands.items()}


def options(case, mode="soft"):
    *_, stride, padding, tile = case
    return {"stride": stride, "padding": padding, "tile": tile, "mode": mode}


def paper(x, weight, gate, bias=None, stride=1, padding=0):
    """NSR section 3.2, steps 3 to 5: mix kernels and biases, then one convolution with groups = batch."""
    n, k, d = gate.shape
    mixed = torch.einsum("nkd,kdre->ndre", gate, weight.reshape(k, d, -1, weight[0].numel()))
    if bias is not None:
        bias = torch.einsum("nkd,kdr->ndr", gate, bias.view(k, d, -1)).flatten()
    x = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(x, mixed.reshape(-1, *weight.shape[1:]), bias, stride, padding, groups=n)
    return y.view(n, -1, *y.shape[2:])


def outputs(f, operands, **arguments) -> dict[str, Tensor]:
    """The result and the gradient of every operand."""
    leaves = {name: t.detach().requires_grad_() for name, t in operands.items() if name != "grad"}
    y = f(**leaves, **arguments)
    y.backward(operands["grad"])
    return {"y": y.detach(), **{f"d_{name}": leaf.grad for name, leaf in leaves.items()}}


def compare(operands, arguments):
    """At most twice the error of plain PyTorch in the same dtype; float32's rounding is allowed on top."""
    exact = outputs(mixed_conv2d_ref, {name: t.double() for name, t in operands.items()}, **arguments)
    eager = [outputs(mixed_conv2d_ref, operands, **arguments)]
    if arguments["tile"] is None:
        gate = operands["gate"]
        if arguments["mode"] == "hard":
            gate = F.one_hot(gate.argmax(1), gate.shape[1]).movedim(-1, 1).to(gate)
        plain = {name: value for name, value in arguments.items() if name in ("stride", "padding")}
        eager.append(outputs(paper, {**operands, "gate": gate}, **plain))
    ours = outputs(mixed_conv2d, operands, **arguments)
    for name, e in exact.items():
        error = max((other[name].double() - e).abs().max() for other in eager)
        allowed = 2 * error + torch.finfo(torch.float32).eps * e.abs().max()
        assert ours[name].dtype == operands["x"].dtype
        assert (ours[name].double() - e).abs().max() <= allowed, name  # NaN fails too


# --- definition -------------------------------------------------------------------------------------------------------


def test_the_definition_agrees_with_the_sums_of_the_paper():
    """Eq. 10 by loops over samples, cardinal groups and kernel groups, each gate on its own tile."""
    case = ((2, 3, 3, 5), 4, 3, 2, (3, 3), (1, 1), (1, 1), (2, 4))
    t = sample(case)
    x, weight, gate, bias = t["x"], t["weight"], t["gate"], t["bias"]
    expected = torch.zeros(2, 4, 3, 5, dtype=torch.float64)
    for n, o, h, w in product(range(2), range(4), range(3), range(5)):
        window = F.pad(x[n], (1, 1, 1, 1))[:, h : h + 3, w : w + 3]
        for i in range(3):
            g = gate[n, i, o // 2, h // 2, w // 4]
            expected[n, o, h, w] += g * ((window * weight[4 * i + o]).sum() + bias[4 * i + o])
    ours = mixed_conv2d_ref(x, weight, gate, bias, 1, 1, tile=(2, 4))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)


def test_mixing_kernels_equals_mixing_outputs():
    case = CASES["3x3"]
    t = sample(case)
    plain = {"stride": 1, "padding": 1}
    a, b = outputs(paper, t, **plain), outputs(mixed_conv2d_ref, t, **plain)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-12, msg=name)


@each_mode
def test_one_kernel_with_a_gate_of_one_is_a_convolution(path, mode):
    t = sample(((2, 5, 7, 9), 6, 1, 3, (3, 3), (1, 1), (1, 1), None), torch.float32, path)
    y = mixed_conv2d(t["x"], t["weight"], torch.ones_like(t["gate"]), t["bias"], 1, 1, mode=mode)
    torch.testing.assert_close(y, F.conv2d(t["x"], t["weight"], t["bias"], padding=1))


def test_the_order_of_the_kernel_groups_does_not_matter(path):
    t = sample(CASES["3x3"], torch.float32, path)
    order = torch.tensor([2, 0, 1], device=path)
    weight, bias = t["weight"].view(3, 6, 5, 3, 3)[order].flatten(0, 1), t["bias"].view(3, 6)[order].flatten()
    for mode in MODES:
        y = mixed_conv2d(t["x"], t["weight"], t["gate"], t["bias"], 1, 1, mode=mode)
        torch.testing.assert_close(mixed_conv2d(t["x"], weight, t["gate"][:, order], bias, 1, 1, mode=mode), y)


def test_squeeze_and_excitation_is_two_kernels_one_of_them_zero():
    """NSR with d = C_out, k = 2 and a second kernel of zeros gates channels by a sigmoid."""
    t = sample(((2, 5, 7, 9), 6, 2, 6, (3, 3), (1, 1), (1, 1), None))
    weight, bias = t["weight"].clone(), t["bias"].clone()
    weight[6:], bias[6:] = 0, 0
    logits = t["gate"].log()
    y = mixed_conv2d(t["x"], weight, t["gate"], bias, 1, 1)
    squeezed = torch.sigmoid(logits[:, 0] - logits[:, 1])[..., None, None]
    expected = squeezed * F.conv2d(t["x"], weight[:6], bias[:6], padding=1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tile", [(8, 8), (3, 4)], ids=str)
@each_mode
def test_tiles_that_share_a_gate_leave_no_seam(path, tile, mode):
    t = sample(((1, 4, 17, 19), 4, 2, 2, (3, 3), (1, 1), (1, 1), None), torch.float32, path)
    tiles = [-(-17 // tile[0]), -(-19 // tile[1])]
    gate = t["gate"][..., None, None].expand(-1, -1, -1, *tiles)
    y = mixed_conv2d(t["x"], t["weight"], gate, t["bias"], 1, 1, tile=tile, mode=mode)
    torch.testing.assert_close(y, mixed_conv2d(t["x"], t["weight"], t["gate"], t["bias"], 1, 1, mode=mode))


# --- both ways to compute ---------------------------------------------------------------------------------------------


@each_case
@each_mode
def test_library_equals_the_definition(case, mode):
    t = sample(case)
    expected = outputs(mixed_conv2d_ref, t, **options(case, mode))
    for name, value in outputs(mixed_conv2d, t, **options(case, mode)).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=name)


@each_case
@pytest.mark.parametrize(
    ("mode", "dtype"), [("soft", torch.float32), ("soft", torch.bfloat16), ("hard", torch.float32)], ids=str
)
def test_kernels_are_as_accurate_as_eager(launches, case, mode, dtype):
    compare(sample(case, dtype, DEVICE), options(case, mode))


@each_case
@each_mode
@each_dtype
def test_library_is_as_accurate_as_eager(case, mode, dtype):
    compare(sample(case, dtype), options(case, mode))


def test_every_case_goes_through_its_kernels(launches):
    for name, way in {"3x3": "fwd", "tiles": "fwd", "small tiles": "wide", "a gate a pixel": "wide"}.items():
        launches.clear()
        outputs(mixed_conv2d, sample(CASES[name], torch.float32, DEVICE), **options(CASES[name]))
        expected = ["wide"] if way == "wide" else ["mix", "fwd", "mix", "bwd_input", "bwd_weight"]
        assert [kernel.removeprefix("mixed_conv2d_") for kernel, _ in launches] == expected


VIEWS_AND_ROOM = {
    "alias", "as_strided", "chunk", "contiguous", "detach", "empty", "empty_like", "empty_strided", "expand", "flatten",
    "narrow", "new_empty", "permute", "reshape", "_reshape_alias", "resolve_conj", "select", "slice", "split",
    "squeeze", "t", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view",
}  # fmt: skip


def launched(call) -> list[str]:
    """Our launches and PyTorch's operators in a call, but for those that compute nothing and those made of others."""

    def within(event):
        found = [name for child in event.cpu_children for name in within(child)]
        if found or event.name.startswith("ours: "):
            return found or [event.name.removeprefix("ours: ")]
        space, _, name = event.name.partition("::")
        return [name] if space == "aten" and name not in VIEWS_AND_ROOM else []

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return [name for event in profile.events() if event.cpu_parent is None for name in within(event)]


@pytest.mark.parametrize("tile", [None, (8, 8), (1, 1)], ids=str)
@each_mode
def test_a_call_is_one_launch_or_two_where_kernels_are_mixed(monkeypatch, mode, tile):
    pytest.importorskip("triton")
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    monkeypatch.setattr(common, "KERNEL_DEVICES", ("cpu",))

    def named(launch):
        with torch.profiler.record_function(f"ours: {launch.kernel.fn.__name__}"):
            pass

    monkeypatch.setattr(common.Launch, "run", named)
    case = ((2, 8, 16, 16), 8, 4, 2, (3, 3), (1, 1), (1, 1), tile)
    t = sample(case, torch.bfloat16)
    t.pop("grad")
    t["x"] = t["x"].contiguous(memory_format=CHANNELS_LAST)
    way = "wide" if tile == (1, 1) else "fwd"
    mix = ["_mixed_conv2d_mix_kernel"] if way == "fwd" and mode == "soft" else []
    for layout in (torch.contiguous_format, CHANNELS_LAST):
        t["weight"] = t["weight"].contiguous(memory_format=layout)
        packed = mix or layout == CHANNELS_LAST
        found = launched(lambda: mixed_conv2d(**t, **options(case, mode)))
        assert found == [*([] if packed else ["copy_"]), *mix, f"_mixed_conv2d_{way}_kernel"]


@each_mode
def test_whatever_writes_into_the_weight_is_seen(path, mode):
    """``.data`` and other libraries write without a new ``_version``."""
    case = CASES["3x3"]
    t = sample(case, torch.float32, path)
    x, weight, gate = (t[name].contiguous() for name in ("x", "weight", "gate"))
    y = mixed_conv2d(x, weight, gate, **options(case, mode))
    weight.data.mul_(2)
    torch.testing.assert_close(mixed_conv2d(x, weight, gate, **options(case, mode)), 2 * y, rtol=0, atol=0)


@pytest.mark.parametrize("splits", [1, 3])
def test_the_weight_gradient_in_parts_is_the_same(launches, monkeypatch, splits):
    case = ((1, 3, 20, 27), 4, 2, 2, (1, 2), (1, 1), (0, 0), None)  # 520 pixels: three sums of 256
    from nsrlib.ops.mixed_conv2d import kernels

    monkeypatch.setattr(kernels, "weight_grad_splits", lambda *_: splits)
    compare(sample(case, torch.float32, DEVICE), options(case))


def test_parts_of_the_weight_gradient_fill_the_processors():
    pytest.importorskip("triton")
    from nsrlib.ops.mixed_conv2d.kernels import weight_grad_splits

    x = torch.empty((), dtype=torch.bfloat16)

    def splits(n, size):
        g = geometry((n, 64, size, size), (256, 64, 3, 3), (n, 4, 16), (1, 1), (1, 1), ())
        return weight_grad_splits(x, g, 132)

    assert splits(16, 48) == 1  # 144 programs as it is
    assert splits(1, 48) == 9  # of 256 pixels each
    assert splits(1, 192) == 29


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=CHANNELS_LAST),
    "every second column": lambda x: torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(3)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["3x3", "small tiles"])
def test_any_layout_will_do(path, layout, name):
    t = sample(CASES[name], torch.float32, path)
    strided = {operand: LAYOUTS[layout](t[operand]) for operand in ("x", "grad", "weight")}
    compare({**t, **strided}, options(CASES[name]))


@pytest.mark.parametrize("name", ["tiles", "small tiles"])
def test_kernels_read_nothing_outside_their_input(launches, name):
    t = sample(CASES[name], torch.float32, DEVICE)
    surrounded = dict(t)
    for operand in ("x", "grad"):
        n, c, h, w = t[operand].shape
        around = torch.full((n * c * h * w + 4000,), torch.nan, device=DEVICE)
        inner = around[2000:-2000].view(n, h, w, c).permute(0, 3, 1, 2)
        surrounded[operand] = inner.copy_(t[operand])
    ours, expected = (outputs(mixed_conv2d, operands, **options(CASES[name])) for operands in (surrounded, t))
    for key, value in expected.items():
        assert value.isfinite().all()
        torch.testing.assert_close(ours[key], value, msg=key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 18), st.integers(2, 10), st.integers(2, 18)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
    st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 18))),
    st.sampled_from(DTYPES),
    st.sampled_from(MODES),
)
@example((1, 3, 10, 18), (2, 2, 3), (2, 2), (1, 1), (1, 1), (5, 13), torch.float32, "hard")
def test_any_shape_is_as_accurate_as_eager(launches, shape, groups, kernel, stride, padding, tile, dtype, mode):
    k, d, r = groups
    case = (shape, d * r, k, d, kernel, stride, padding, tile)
    compare(sample(case, dtype, DEVICE), options(case, mode))


def test_an_empty_batch_gives_empty_results_and_zero_gradients(path):
    case = ((0, 5, 6, 9), 6, 3, 2, (3, 3), (1, 1), (1, 1), None)
    found = outputs(mixed_conv2d, sample(case, torch.float32, path), **options(case))
    assert found["y"].shape == (0, 6, 6, 9)
    assert (found["d_weight"] == 0).all()


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, (8, 8), (2, 3)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)], ids=str)
def test_soft_gradients_pass_gradcheck(tile, stride):
    case = ((2, 2, 9, 10) if tile == (8, 8) else (2, 2, 4, 5), 2, 2, 2, (3, 2), stride, (1, 0), tile)
    t = sample(case)
    leaves = [t[name].requires_grad_() for name in ("x", "weight", "gate", "bias")]
    assert torch.autograd.gradcheck(lambda *a: mixed_conv2d(*a, stride, (1, 0), tile=tile), leaves, fast_mode=True)


@pytest.mark.parametrize("tile", [None, (2, 3)], ids=str)
def test_the_hard_gradient_of_the_gate_is_that_of_a_soft_gate_of_zeros_and_ones(tile):
    case = ((2, 3, 5, 6), 4, 3, 2, (3, 3), (1, 1), (1, 1), tile)
    t = sample(case)
    one_hot = F.one_hot(t["gate"].argmax(1), 3).movedim(-1, 1).double()
    hard = outputs(mixed_conv2d, t, **options(case, "hard"))
    soft = outputs(mixed_conv2d, {**t, "gate": one_hot}, **options(case, "soft"))
    for name, value in soft.items():
        torch.testing.assert_close(hard[name], value, rtol=0, atol=1e-12, msg=name)
    assert (hard["d_gate"] != 0).all()


def test_of_equal_gates_the_first_is_taken(path):
    t = sample(CASES["3x3"], torch.float32, path)
    y = mixed_conv2d(t["x"], t["weight"], torch.zeros_like(t["gate"]), t["bias"], 1, 1, mode="hard")
    torch.testing.assert_close(y, F.conv2d(t["x"], t["weight"][:6], t["bias"][:6], padding=1))


@each_mode
def test_many_kernels_are_chosen_from_as_well(launches, mode):
    case = ((2, 3, 3, 5), 2, 21, 2, (1, 1), (1, 1), (0, 0), None)
    compare(sample(case, torch.float32, DEVICE), options(case, mode))


@pytest.mark.parametrize("name", ["3x3", "small tiles"])
def test_a_gate_that_is_not_a_number_is_chosen(launches, name):
    """As by torch.argmax."""
    t = sample(CASES[name], torch.float32, DEVICE)
    t["gate"][:, 1, 0], t["gate"][:, 2, 0] = torch.nan, torch.nan
    t.pop("grad")
    y = mixed_conv2d(**t, **options(CASES[name], "hard"))
    t["gate"] = t["gate"].nan_to_num(9)
    torch.testing.assert_close(y, mixed_conv2d(**t, **options(CASES[name], "hard")))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has no memory that costs nothing")
def test_a_gate_may_have_more_than_32_bits_count(launches, tmp_path):
    """Files of nothing stand for the memory, of which the first program touches some pages."""
    from nsrlib.ops.mixed_conv2d import kernels

    side, k = 2**15, 3  # the last kernel's gates begin at element 2**31
    g = geometry((1, 1, side, side), (k, 1, 1, 1), (1, k, 1, side, side), (1, 1), (0, 0), (1, 1))

    def sparse(name, *size):
        return torch.from_file(str(tmp_path / name), True, torch.Size(size).numel(), dtype=torch.float16).view(size)

    x, y = sparse("x", 1, 1, side, side), sparse("y", 1, 1, side, side)
    gate = sparse("gate", 1, k, 1, side, side)
    rows = torch.tensor([1.0, 10.0, 100.0]).half().view(k, 1, 1, 1)
    x[..., 0, :64], gate[:, 2, :, 0, :64] = 2, 1
    for mode in MODES:
        y[..., 0, :64] = 0
        kernels.wide_launch(x, rows, None, gate, y, g, mode)._replace(grid=(1,)).run()
        assert (y[..., 0, :64] == 200).all()


@pytest.mark.parametrize("name", ["3x3", "small tiles"])
def test_only_gradients_asked_for_are_computed(name):
    t = sample(CASES[name], torch.float32)
    everything = outputs(mixed_conv2d, t, **options(CASES[name]))
    for wanted in ("x", "weight", "gate", "bias"):
        leaves = {key: v.detach().requires_grad_(key == wanted) for key, v in t.items() if key != "grad"}
        mixed_conv2d(**leaves, **options(CASES[name])).backward(t["grad"])
        assert [key for key, v in leaves.items() if v.grad is not None] == [wanted]
        torch.testing.assert_close(leaves[wanted].grad, everything[f"d_{wanted}"])


def test_gradients_twice_are_refused():
    t = sample(CASES["3x3"])
    x = t["x"].requires_grad_()
    y = mixed_conv2d(x, t["weight"], t["gate"], None, 1, 1)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="mixed_conv2d_backward"):
        dx.sum().backward()


# --- registration -----------------------------------------------------------------------------------------------------


def registered(name, mode="soft", device="cpu"):
    """Arguments of both operators: x with gaps, and for tiles no bias."""
    t = sample(CASES[name], torch.float32, device)
    *_, stride, padding, tile = CASES[name]
    leaves = [LAYOUTS["every second column"](t["x"]), t["weight"], t["gate"], None if name == "tiles" else t["bias"]]
    rest = [list(stride), list(padding), list(tile or ()), mode, "tf32x3"]
    backward = [t["grad"], *leaves, *rest, [leaf is not None for leaf in leaves]]
    return [leaf if leaf is None else leaf.detach().requires_grad_() for leaf in leaves] + rest, backward


@pytest.mark.parametrize(("name", "mode"), [("3x3", "hard"), ("tiles", "soft"), ("small tiles", "soft")])
def test_opcheck_is_clean(name, mode):
    forward, backward = registered(name, mode)
    torch.library.opcheck(torch.ops.nsrlib.mixed_conv2d, forward)
    torch.library.opcheck(torch.ops.nsrlib.mixed_conv2d_backward, backward)


@pytest.mark.parametrize("name", ["3x3"])
def test_kernels_give_the_registered_layout(launches, name):
    forward, backward = registered(name, device=DEVICE)
    for operator, arguments in (
        (torch.ops.nsrlib.mixed_conv2d, forward),
        (torch.ops.nsrlib.mixed_conv2d_backward, backward),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_it_compiles_into_one_graph(backend):
    case = CASES["3x3"]
    t = sample(case, torch.float32)
    compiled = torch.compile(mixed_conv2d, fullgraph=True, backend=backend)
    arguments = options(case)
    if backend == "inductor":  # quick, because there is nothing to generate code for
        t.pop("grad")
        torch.testing.assert_close(compiled(**t, **arguments), mixed_conv2d(**t, **arguments))
        return
    plain, ours = (outputs(f, t, **arguments) for f in (mixed_conv2d, compiled))
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], msg=name)


def test_vmap_maps_results_and_gradients():
    several = [sample(CASES["small tiles"], seed=seed) for seed in range(3)]
    arguments, fixed = options(CASES["small tiles"]), several[0]
    x, gate, grad = (torch.stack([t[name] for t in several]) for name in ("x", "gate", "grad"))
    y = torch.vmap(lambda x, gate: mixed_conv2d(x, fixed["weight"], gate, None, **arguments))(x, gate)
    for i in range(3):
        torch.testing.assert_close(y[i], mixed_conv2d(x[i], fixed["weight"], gate[i], None, **arguments))
    leaf = x[0].clone().requires_grad_()
    y = mixed_conv2d(leaf, fixed["weight"], gate[0], None, **arguments)
    (batched,) = torch.autograd.grad(y, leaf, grad, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        torch.testing.assert_close(batched[i], *torch.autograd.grad(y, leaf, grad[i], retain_graph=True))


def test_autocast_casts_as_it_does_for_convolutions():
    t = sample(CASES["3x3"], torch.float32)
    t.pop("grad")
    with torch.autocast("cpu", torch.bfloat16):
        y = mixed_conv2d(**t, **options(CASES["3x3"]))
    cast = {name: value.bfloat16() for name, value in t.items()}
    torch.testing.assert_close(y, mixed_conv2d(**cast, **options(CASES["3x3"])), rtol=0, atol=0)


def flops(f, operands, backward=False, **arguments) -> int:
    with FlopCounterMode(display=False) as counter:
        if backward:
            outputs(f, operands, **arguments)
        else:
            f(**{name: t for name, t in operands.items() if name != "grad"}, **arguments)
    return counter.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_mixing_and_one_convolution(device):
    case = CASES["3x3"]
    t = sample(case, torch.float32, device)
    convolution, mixing = 2 * 3 * 7 * 9 * 6 * 45, 2 * 3 * 3 * 6 * 45
    assert flops(mixed_conv2d, t, **options(case)) == convolution + mixing
    assert flops(mixed_conv2d, t, **options(case, "hard")) == convolution
    # two convolutions and two mixings, and one mixing more to have the kernels again
    assert flops(mixed_conv2d, t, True, **options(case)) == 3 * convolution + 4 * mixing
    assert flops(mixed_conv2d, t, True, **options(case, "hard")) == 3 * convolution + 2 * mixing


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_of_tiles_are_those_of_the_way_they_take(device):
    tiles, small = CASES["tiles"], CASES["small tiles"]
    counted = flops(mixed_conv2d, sample(tiles, torch.float32, device), **options(tiles))
    assert counted == 2 * (17 * 9 * 4 * 36 + 3 * 3 * 4 * 36)
    wide, t = 63 * 18, sample(small, torch.float32, device)  # outputs times k
    for mode in MODES:
        assert flops(mixed_conv2d, t, **options(small, mode)) == 2 * wide * (36 + 1)
        backward = flops(mixed_conv2d, t, True, **options(small, mode)) - 2 * wide * (36 + 1)
        assert backward == wide * (1 + 3 * 2 * 36 + 2)


def test_the_overhead_of_mixing_is_what_the_specification_counts():
    """NSR small, 32 layers on a 48x48 patch: 4.72 M multiply-adds, which with the Linear layers make 4.85 M, 0.18 %."""
    case = ((1, 64, 48, 48), 64, 4, 16, (3, 3), (1, 1), (1, 1), None)
    t = sample(case, torch.float32, "meta")
    soft, hard = (flops(mixed_conv2d, t, **options(case, mode)) / 2 for mode in MODES)
    assert 32 * (soft - hard) + 32 * 64 * 64 == 4_849_664
    assert 32 * hard == 32 * 48 * 48 * 9 * 64 * 64


# --- validation -------------------------------------------------------------------------------------------------------

GOOD = {**sample(CASES["3x3"], torch.float32), "stride": 1, "padding": 1}
GOOD.pop("grad")
BAD = {
    "rank": ({"x": torch.zeros(5, 7, 9)}, ValueError, r"x must be \(N, C_in, H, W\), got \(5, 7, 9\)"),
    "integers": ({"x": torch.zeros(3, 5, 7, 9, dtype=torch.int32)}, TypeError, "x must be .*float64, got torch.int32"),
    "weight rank": ({"weight": torch.zeros(18, 5)}, ValueError, r"weight must be .*, got \(18, 5\)"),
    "no filters": ({"weight": torch.zeros(0, 5, 3, 3)}, ValueError, r"weight must be .*, got \(0, 5, 3, 3\)"),
    "channels": ({"weight": torch.zeros(18, 4, 3, 3)}, ValueError, "weight .* takes 4 channels, x has 5"),
    "gate rank": ({"gate": torch.zeros(3, 6)}, ValueError, r"gate must be \(N, k, d\), got \(3, 6\)$"),
    "a map without tile": ({"gate": torch.zeros(3, 3, 2, 1, 1)}, ValueError, "got .*; give tile for a gate map"),
    "tile without a map": ({"tile": 4}, ValueError, r"gate must be \(N, k, d, GH, GW\) with tile, got \(3, 3, 2\)"),
    "samples": ({"gate": torch.zeros(2, 3, 2)}, ValueError, "gate .* is for 2 samples, x has 3"),
    "k": ({"gate": torch.zeros(3, 4, 2)}, ValueError, "weight has 18 filters, which the k = 4 of gate does not divide"),
    "no k": ({"gate": torch.zeros(3, 0, 2)}, ValueError, "which the k = 0 of gate does not divide"),
    "d": ({"gate": torch.zeros(3, 3, 4)}, ValueError, "6 filters a kernel, which the d = 4 of gate does not divide"),
    "tiles": (
        {"gate": torch.zeros(3, 3, 2, 2, 2), "tile": (4, 4)},
        ValueError,
        r"gate must have \(2, 3\) tiles of \(4, 4\) for a result of \(7, 9\), got \(2, 2\)",
    ),
    "bias": ({"bias": torch.zeros(6)}, ValueError, r"bias must be \(18,\) to fit weight, got \(6,\)"),
    "types": ({"gate": torch.zeros(3, 3, 2).half()}, TypeError, "gate is torch.float16, x is torch.float32"),
    "devices": ({"bias": torch.zeros(18, device="meta")}, ValueError, "bias is on meta, x is on cpu"),
    "stride": ({"stride": 0}, ValueError, r"stride must be at least 1, got \(0, 0\)"),
    "padding": ({"padding": (1, -1)}, ValueError, r"padding must be at least 0, got \(1, -1\)"),
    "tile of zero": ({"tile": (4, 0)}, ValueError, r"tile must be at least 1, got \(4, 0\)"),
    "too small": (
        {"x": torch.zeros(3, 5, 2, 9), "padding": 0},
        ValueError,
        r"weight of \(3, 3\) exceeds x of \(2, 9\)",
    ),
    "mode": ({"mode": "gumbel"}, ValueError, "mode must be one of soft, hard, got 'gumbel'"),
    "precision": ({"float32_precision": "bf16"}, ValueError, "float32_precision must be one of tf32x3, .* got 'bf16'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name_and_value(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        mixed_conv2d(**{**GOOD, **change})


def test_samples_beyond_32_bit_offsets_are_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(common, "HAS_TRITON", True)
    monkeypatch.setattr(common, "KERNEL_DEVICES", ("meta",))
    x = torch.empty(1, 1, 1, device="meta").expand(1, 1, 2**16, 2**15)
    weight, gate = torch.empty(1, 1, 1, 1, device="meta"), torch.empty(1, 1, 1, device="meta")
    with pytest.raises(ValueError, match=r"fewer than 2\*\*31 elements a sample on a GPU, got 2147483648"):
        mixed_conv2d(x, weight, gate)
    x, weight = x[..., :1, :1].expand(1, 2**16, 1, 1), weight.expand(2**15, 2**16, 1, 1)
    with pytest.raises(ValueError, match=r"weight must have fewer than 2\*\*31 elements on a GPU, got 2147483648"):
        mixed_conv2d(x, weight, gate)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("precision", ["tf32x3", "ieee"])
@each_mode
def test_float32_precision_holds_on_the_gpu(precision, mode):
    case = ((4, 64, 48, 48), 64, 4, 16, (3, 3), (1, 1), (1, 1), None)
    t = sample(case, torch.float32, DEVICE)
    exact = outputs(mixed_conv2d_ref, {name: v.double() for name, v in t.items()}, **options(case, mode))
    with torch.backends.cudnn.flags(allow_tf32=False):
        eager = outputs(mixed_conv2d_ref, t, **options(case, mode))
    ours = outputs(mixed_conv2d, t, **options(case, mode), float32_precision=precision)
    for name, e in exact.items():
        assert F.mse_loss(ours[name].double(), e) <= 4 * F.mse_loss(eager[name].double(), e), name
