"""What is said about DRCN before training: sizes, receptive fields, gradients, the bound of fusing recursions."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib import complexity
from nsrlib.models.drcn import DRCN, LumaDRCN, loss_terms
from nsrlib.papers.drcn import analysis

DESIGNS = {"a": (True, True), "b": (True, False), "chain": (False, True), "c": (False, False)}
"""share_recursion, share_recon"""


def network(**config) -> DRCN:
    torch.manual_seed(0)
    return DRCN(1, **{"features": 6, "recursions": 4, "recur_init": 1.0, **config}).double()


def image(h: int = 13, w: int = 10, n: int = 1) -> Tensor:
    return torch.rand(n, 1, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("design", "recursions", "params"),
    [
        ("a", 1, 1_775_105), ("a", 6, 1_775_105), ("a", 16, 1_775_105), ("b", 6, 4_737_030), ("b", 16, 10_660_880),
        ("chain", 6, 4_725_505), ("chain", 16, 10_626_305), ("c", 6, 19_501_830), ("c", 16, 99_211_280),
    ],
)  # fmt: skip
def test_the_designs_of_figure_3_have_the_papers_parameters(design, recursions, params):
    recursion, recon = DESIGNS[design]
    with torch.device("meta"):
        net = DRCN(recursions=recursions, share_recursion=recursion, share_recon=recon)
    assert sum(p.numel() for p in net.parameters()) == params + recursions
    assert analysis.parameters(recursions, design=design) == params


def test_multiply_adds_are_those_that_papers_quote():
    net, calls = network(features=5, recursions=3), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, _, y: calls.append(y.numel() * m.weight[0].numel()))
    net(image(6, 7))
    assert sum(calls) == analysis.macs(3, 5, (6, 7))
    assert analysis.macs(16, size=(1, 1)) == 19_503_360
    assert f"{analysis.macs(16) / 1e9:.1f}" == "17974.3"
    assert f"{analysis.macs(1) / 1e9:.1f}" == "1635.0"


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_collapsed_network_is_counted_with_one_last_layer(scale):
    model = LumaDRCN(scale, 6, 4)
    size = (24 // scale, 36 // scale)
    assert complexity.count(model, size).multi_adds == analysis.macs(4, 6, (24, 36), collapsed=True)


# --- receptive fields, gradients --------------------------------------------------------------------------------------


def test_the_receptive_field_is_41_and_21_is_that_of_six_recursions():
    table = analysis.receptive_fields().set_index("depth")
    assert table["measured"].to_dict() == {1: 11, 6: 21, 9: 27, 11: 31, 16: 41, 20: 49}
    assert (table["measured"] == table["law"]).all()
    assert (table["at_start"] == 9).all()
    assert table["layers"].to_dict() == {1: 5, 6: 10, 9: 13, 11: 15, 16: 20, 20: 24}
    assert DRCN(features=2).halo == (41 - 1) // 2


def test_parameters_grow_as_constant_line_and_square():
    table = analysis.parameter_laws(range(1, 11), features=8)
    assert (table["params"] == table["law"]).all()
    for design, rows in table.groupby("design"):
        order = {"a: shared": 0, "c: nothing shared": 2}.get(design, 1)
        params = rows.sort_values("depth")["params"]
        for _ in range(order):
            params = params.diff().iloc[1:]
            assert (params > 0).all()
        assert (params == params.iloc[0]).all()
    assert analysis.parameters(16, design="c") == 99_211_280
    with pytest.raises(ValueError, match="design must be one of a, b, chain, c, got 'd'"):
        analysis.parameters(16, design="d")


def pair(n: int = 2, side: int = 15) -> tuple[Tensor, Tensor]:
    target = F.avg_pool2d(image(side + 4, side + 4, n), 5, 1)
    return F.avg_pool2d(F.pad(target, (1, 1, 1, 1), "replicate"), 3, 1), target


def test_gradients_at_the_identity_obey_the_papers_counting():
    table = analysis.gradient_identities(*pair(), features=8)
    assert len(table) == 16 * 3
    assert table["error"].max() < 1e-6
    assert (table["factor"] / table["law"] - 1).abs().max() < 1e-6
    assert (table["along"] - 1).abs().max() < 1e-6
    last = table[table["depth"] == 16].set_index("loss")["law"]
    assert last.to_dict() == {"last": 16.0, "recursions": 8.5, "ensemble": 8.5}


def test_the_table_of_propagation_is_that_of_single_profiles():
    x, target = pair()
    table = analysis.gradient_propagation(x, target, (1, 2, 5), ("identity", 0.8), features=5)
    assert len(table) == 2 * 3 * 3
    for row in table.itertuples():
        init = row.init if row.init == "identity" else float(row.init)
        net = analysis.network_at_start(5, row.depth, init)
        profile = analysis.grad_profile(net, (x, target), row.loss)
        norms = [profile["weight"].norm().item(), profile["states"][0], profile["states"][-1]]
        assert [row.weight, row.first, row.last] == pytest.approx(norms, rel=1e-10)


def test_recursive_supervision_keeps_gradients_that_vanish_or_explode_without():
    depths = (1, 8, 16)
    table = analysis.gradient_propagation(*pair(), depths, (0.5, 1.6), features=16)
    weight: pd.Series = table.set_index(["init", "loss", "depth"])["weight"].sort_index()
    for init in ("0.5", "1.6"):
        spans = {}
        for loss in ("last", "recursions"):
            assert weight[init, loss, 1] == pytest.approx(weight[init, "last", 1], rel=1e-5)
            spans[loss] = weight[init, loss].max() / weight[init, loss].min()
        assert spans["last"] > 10 * spans["recursions"] if init == "0.5" else spans["last"] > spans["recursions"]
    assert weight["0.5", "last", 16] < 1e-3 * weight["0.5", "last", 1]
    assert weight["1.6", "last", 16] > 1e2 * weight["1.6", "last", 1]
    ratio = table[table["loss"] == "last"].set_index(["init", "depth"])["ratio"]
    assert (ratio["0.5", 16] / ratio["0.5", 8]) ** (1 / 8) < 0.9 < 1.1 < (ratio["1.6", 16] / ratio["1.6", 8]) ** (1 / 8)


def test_profiles_refuse_what_they_cannot_profile():
    with pytest.raises(ValueError, match="loss must be one of last, recursions, ensemble, got 'l1'"):
        analysis.grad_profile(network(), pair(), "l1")
    with pytest.raises(ValueError, match="grad_profile takes a DRCN with an ensemble and a shared recursion"):
        analysis.grad_profile(network(share_recursion=False), pair())


def test_equally_weighted_ensembles_have_at_most_the_loss_of_their_recursions():  # Jensen's inequality
    net, (x, target) = network(), pair()
    ys = net.predictions(x)
    terms = loss_terms(torch.stack(ys).mean(0), ys, target)
    assert terms["ensemble"] < terms["recursions"]


def test_fusing_cannot_gain_where_arithmetic_is_the_bound():
    wide = analysis.fused_recursion_bound(256, tile=32, fused=2)
    assert wide["weight_bytes"] == 1_179_648
    assert wide["library_arithmetic"] == pytest.approx(2 * 9 * 256**2 * 2**20 / 990e12)
    assert wide["library_traffic"] == pytest.approx(2 * 256 * 2 * 2**20 / 4.8e12)
    # a tile of 32 is read with two pixels more on each side and written once, for two recursions
    assert wide["fused_traffic"] == pytest.approx(wide["library_traffic"] * (36**2 + 32**2) / (2 * 32**2) / 2)
    assert not wide["weights_fit"]
    assert wide["library_arithmetic"] > wide["library_traffic"]
    assert wide["recompute"] == pytest.approx((32**2 + 34**2) / (2 * 32**2))
    assert wide["gain"] == pytest.approx(1 / wide["recompute"])
    one = analysis.fused_recursion_bound(96, tile=10**6, fused=1)
    assert one["gain"] == pytest.approx(1, rel=1e-4)
    assert analysis.fused_recursion_bound(32, tile=32, fused=4)["gain"] > 1
    with pytest.raises(ValueError, match="fused must be a whole number, 1 or more, got 0"):
        analysis.fused_recursion_bound(fused=0)
