"""All operators, and a network of each, traced: exported with free sizes, and captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import nsrlib
from nsrlib.ops import adder2d, bsconv2d, mixed_conv2d


class Layer(NamedTuple):
    """A call of an operator: its images ``(N, 8, H, W)`` and gates of a sample come in, filters stay."""

    call: Callable[..., Tensor]
    weights: dict[str, Tensor]
    gates: tuple[int, ...] = ()


def drawn(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))


LAYERS = {
    "adder2d": Layer(lambda x, weight: adder2d(x, weight, 1, 1), {"weight": drawn(6, 8, 3, 3)}),
    "bsconv2d": Layer(
        lambda x, pointwise, depthwise, bias: bsconv2d(x, pointwise, depthwise, bias, "gelu", x),
        {"pointwise": drawn(8, 8, 1, 1), "depthwise": drawn(8, 1, 3, 3), "bias": drawn(8)},
    ),
    "mixed_conv2d, soft": Layer(
        lambda x, gate, weight, bias: mixed_conv2d(x, weight, gate.softmax(1), bias, 1, 1),
        {"weight": drawn(24, 8, 3, 3), "bias": drawn(24)},
        (3, 2),
    ),
    "mixed_conv2d, hard": Layer(
        lambda x, gate, weight, bias: mixed_conv2d(x, weight, gate, bias, (2, 1), 1, mode="hard"),
        {"weight": drawn(24, 8, 3, 3), "bias": drawn(24)},
        (3, 2),
    ),
}
NETWORKS = {
    "addersr_edsr": {"num_feats": 8, "num_blocks": 1},
    "bsrn": {"num_feats": 16, "num_blocks": 1},
    "nsr": {"num_feats": 8, "num_blocks": 1, "cardinals": 4},
}
each_layer = pytest.mark.parametrize("name", LAYERS)


class Module(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.call = layer.call
        self.weights = nn.ParameterDict(layer.weights)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return self.call(x, *([] if gate is None else [gate]), **self.weights)


def inputs(layer: Layer, n: int, h: int, w: int) -> tuple[Tensor, ...]:
    gate = (drawn(n, *layer.gates),) if layer.gates else ()
    return drawn(n, 8, h, w), *gate


# --- export -----------------------------------------------------------------------------------------------------------


@each_layer
@torch.no_grad()
def test_operators_are_exported_with_free_sizes(name):
    layer = LAYERS[name]
    module = Module(layer).eval()
    n, h, w = (torch.export.Dim(name, min=4, max=64) for name in ("n", "h", "w"))
    free = ({0: n, 2: h, 3: w}, *([{0: n}] if layer.gates else []))
    program = torch.export.export(module, inputs(layer, 4, 7, 9), dynamic_shapes=free)
    assert any("nsrlib" in str(node.target) for node in program.graph.nodes)
    for size in ((5, 6, 12), (4, 16, 4)):
        operands = inputs(layer, *size)
        torch.testing.assert_close(program.module()(*operands), module(*operands), rtol=0, atol=0)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "bsrn" else n for n in NETWORKS])
def test_networks_are_exported_with_free_sizes(name):
    torch.manual_seed(0)
    model = nsrlib.create_model(name, 2, **NETWORKS[name]).eval()
    # from 24 on, because BSRN pools its features to one pixel of 20, and PyTorch takes a side of 1 for no free size
    n, h, w = torch.export.Dim("n", min=2), *(torch.export.Dim(side, min=24, max=512) for side in "hw")
    with torch.no_grad():
        program = torch.export.export(model, (torch.rand(2, 3, 28, 33),), dynamic_shapes=({0: n, 2: h, 3: w},))
        x = torch.rand(3, 3, 25, 36)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compile_into_one_graph(name):
    torch.manual_seed(0)
    model = nsrlib.create_model(name, 2, **NETWORKS[name])
    x = torch.rand(1, 3, 16, 17)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for network in (model, compiled):
        y = network(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [*model.parameters()], allow_unused=True)])
    torch.testing.assert_close(found[1], found[0])


# --- CUDA graphs ------------------------------------------------------------------------------------------------------


def captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of ``call``, after three calls on another stream that compile and load what it needs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@each_layer
def test_a_cuda_graph_computes_with_what_lies_in_its_inputs(name, training):
    layer = LAYERS[name]
    module = Module(layer).cuda()
    operands = [t.cuda().requires_grad_(training) for t in inputs(layer, 2, 9, 17)]
    leaves = [*operands, *module.parameters()]
    static: dict[str, Tensor] = {}

    def step() -> None:
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.set_grad_enabled(training), exact:
            static["y"] = y = module(*operands)
            if training:
                static.update({f"{i}": g for i, g in enumerate(torch.autograd.grad(y.square().sum(), leaves))})

    graph = captured(step)
    replayed = dict(static)  # the tensors that the graph writes
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.5).add_(0.1)
    graph.replay()
    step()
    assert len(static) == (1 + len(leaves) if training else 1)
    for key, value in static.items():
        torch.testing.assert_close(replayed[key], value, msg=key)
