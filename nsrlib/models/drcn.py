"""DRCN (Kim et al., "Deeply-Recursive Convolutional Network for Image Super-Resolution", CVPR 2016, arXiv 1511.04491).

One 3x3 convolution ``W`` is applied D times to the features of the upscaled image, ``H_d = relu(W * H_{d-1} + b)``.
Every ``H_d`` is decoded by the same two-layer reconstruction into a prediction ``y_d`` that is supervised, and the
output is their sum with learned weights (Secs. 3.1, 3.2). At the start ``W`` is the identity.

:class:`DRCN` takes the image at its final size, as in the paper; :class:`LumaDRCN`, which ``create_model("drcn")``
builds, takes low-resolution RGB or luma like any other network; :class:`FastDRCN` is for inference only.

Where the paper leaves a choice: the additive skip goes without a last ReLU, whose output could only be brighter than
the input (the basic model's Eq. 6 has one); the weights are not normalised and start at 1/D; how alpha decays is not
published, see :func:`alpha_schedule`.
"""

from __future__ import annotations

import copy
import math
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.images import imresize, luma
from nsrlib.layers import check_input

Skip = Literal["add", "concat", "none"]
SKIPS: tuple[str, ...] = ("add", "concat", "none")


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
    return value


# --- the network ------------------------------------------------------------------------------------------------------


class DRCN(nn.Module):
    """The network on an image that has its final size already.

    Input ``(N, channels, H, W)``, sides at least 3; in the paper luma (BT.601, 16..235) over 255. Output
    ``(y, [y_1 .. y_D])``, each of the input's shape and not clipped.

    ===============  ===========  ==============================================  =====================
    share_recursion  share_recon  design (Fig. 3)                                 parameters grow
    ===============  ===========  ==============================================  =====================
    True             True         (a) the paper's                                 not at all
    True             False        (b) a reconstruction of its own for each y_d    linearly with D
    False            True         a chain of D different layers                   linearly with D
    False            False        (c) a network of its own for each y_d           with the square of D
    ===============  ===========  ==============================================  =====================

    Args:
        channels: 1, or 3 for RGB.
        features: F. recursions: D.
        skip: the input is added to each prediction, concatenated to the last layer's input, or not used.
        share_recon, share_recursion: see above.
        last_relu: ReLU after the last layer.
        normalize_weights: divide the ensemble's weights by their sum.
        ensemble: False: the basic model, whose only prediction is ``y_D`` (Sec. 3.1).
        learn_weights: False: the weights stay at 1/D.
        recur_init: ``identity``, or a number g: He's normal initialisation times g.
        last_gain: factor of the last layer's first weights; He's (1) makes a large first error, 0.1 starts near the
            input.

    Raises:
        ValueError: an argument out of range; an input of other channels or smaller than a kernel.
    """

    min_size = 3

    def __init__(
        self,
        channels: int = 1,
        features: int = 256,
        recursions: int = 16,
        skip: Skip = "add",
        share_recon: bool = True,
        share_recursion: bool = True,
        last_relu: bool = False,
        normalize_weights: bool = False,
        *,
        ensemble: bool = True,
        learn_weights: bool = True,
        recur_init: str | float = "identity",
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if skip not in SKIPS:
            raise ValueError(f"skip must be one of {', '.join(SKIPS)}, got {skip!r}")
        if recur_init != "identity" and (isinstance(recur_init, str) or not recur_init >= 0):
            raise ValueError(f"recur_init must be 'identity' or a factor of He's initialisation, got {recur_init!r}")
        self.channels, self.features = _whole("channels", channels), _whole("features", features)
        self.recursions = _whole("recursions", recursions)
        self.skip, self.share_recon, self.share_recursion = skip, share_recon, share_recursion
        self.last_relu, self.normalize_weights, self.ensemble = last_relu, normalize_weights, ensemble
        self.halo = recursions + 4  # context that a pixel sees on each side
        outputs = recursions if ensemble else 1
        if ensemble:
            self.w = nn.Parameter(torch.full((recursions,), 1 / recursions), requires_grad=learn_weights)
        if ensemble and not (share_recon or share_recursion):
            self.paths = nn.ModuleList(
                DRCN(
                    channels, features, d, skip, True, False, last_relu,
                    ensemble=False, recur_init=recur_init, last_gain=last_gain,
                )
                for d in range(1, recursions + 1)
            )  # fmt: skip
            return

        def conv(c_in: int, c_out: int) -> nn.Conv2d:
            layer = nn.Conv2d(c_in, c_out, 3, padding=1)
            if not layer.weight.is_meta:  # where PyTorch would load its compiler to fill nothing
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
            return layer

        self.embed0, self.embed1 = conv(channels, features), conv(features, features)
        self.recur = nn.ModuleList(conv(features, features) for _ in range(1 if share_recursion else recursions))
        count = 1 if share_recon else outputs
        self.recon0 = nn.ModuleList(conv(features, features) for _ in range(count))
        width = features + (channels if skip == "concat" else 0)
        self.recon1 = nn.ModuleList(conv(width, channels) for _ in range(count))
        with torch.no_grad():
            for layer in self.recur:
                weight = cast(nn.Conv2d, layer).weight
                nn.init.dirac_(weight) if recur_init == "identity" else weight.mul_(float(recur_init))
            for layer in self.recon1:
                cast(nn.Conv2d, layer).weight.mul_(last_gain)

    @property
    def weights(self) -> Tensor:
        """The ensemble's weights as they are applied, ``(D,)``."""
        return self.w / self.w.sum() if self.normalize_weights else self.w

    def embed(self, x: Tensor) -> Tensor:
        """``H_0``, ``(N, F, H, W)``."""
        return F.relu(self.embed1(F.relu(self.embed0(x))))

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """``H_0, H_1 .. H_D``, one after the other."""
        h = self.embed(x)
        yield h
        for d in range(self.recursions):
            h = F.relu(self.recur[d if len(self.recur) > 1 else 0](h))
            yield h

    def reconstruct(self, h: Tensor, x: Tensor, d: int) -> Tensor:
        """``y_d`` from ``H_d`` and the input (Eq. 5); d counts from 1."""
        k = d - 1 if len(self.recon0) > 1 else 0
        r = F.relu(self.recon0[k](h))
        y = self.recon1[k](torch.cat([r, x], 1) if self.skip == "concat" else r)
        if self.last_relu:
            y = F.relu(y)
        return x + y if self.skip == "add" else y

    def predictions(self, x: Tensor) -> list[Tensor]:
        """``[y_1 .. y_D]``, or ``[y_D]`` of the basic model."""
        check_plane(x, "DRCN", self.channels)
        if hasattr(self, "paths"):
            return [cast(DRCN, path).predictions(x)[0] for path in self.paths]
        if self.ensemble:
            return [self.reconstruct(h, x, d) for d, h in enumerate(self.states(x)) if d]
        *_, last = self.states(x)
        return [self.reconstruct(last, x, self.recursions)]

    def combine(self, ys: list[Tensor]) -> Tensor:
        """Eq. 7's weighted sum of the predictions; of the basic model, its only one."""
        if not self.ensemble:
            return ys[0]
        return sum((w * y for w, y in zip(self.weights, ys, strict=True)), start=torch.zeros_like(ys[0]))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        ys = self.predictions(x)
        return self.combine(ys), ys

    def single(self, x: Tensor, d: int) -> Tensor:
        """``y_d`` alone, at the cost of d recursions and one reconstruction."""
        check_plane(x, "DRCN", self.channels)
        if not 1 <= d <= self.recursions or not (self.ensemble or d == self.recursions):
            raise ValueError(f"d must be one of the {self.recursions} recursions that have a prediction, got {d!r}")
        if hasattr(self, "paths"):
            return cast(DRCN, self.paths[d - 1]).predictions(x)[0]
        for k, h in enumerate(self.states(x)):
            if k == d:
                return self.reconstruct(h, x, d)
        raise AssertionError

    def collapsed(self, x: Tensor) -> Tensor:
        """``y`` with one last layer instead of D, exactly: it is linear, so it may follow the weighted sum.

        ``sum_d w_d (W_2 * R_d + b_2) = W_2 * (sum_d w_d R_d) + b_2 sum_d w_d``, and the skip is scaled by ``sum_d w_d``
        too. With a last ReLU, without an ensemble or without a shared reconstruction there is nothing to collapse, and
        this is ``forward(x)[0]``.
        """
        if not self.collapses:
            return self(x)[0]
        check_plane(x, "DRCN", self.channels)
        weights, h = self.weights, self.states(x)
        next(h)
        r = sum(w * F.relu(self.recon0[0](s)) for w, s in zip(weights, h, strict=True))
        return _last_layer(cast(nn.Conv2d, self.recon1[0]), cast(Tensor, r), x, weights.sum(), self.skip)

    @property
    def collapses(self) -> bool:
        """Whether :meth:`collapsed` saves anything."""
        return self.ensemble and self.share_recon and not self.last_relu


def _last_layer(layer: nn.Conv2d, r: Tensor, x: Tensor, total: Tensor | float, skip: str) -> Tensor:
    """The linear last layer behind ``r = sum_d w_d R_d``; ``total`` is the sum of the weights."""
    if skip == "concat":
        r = torch.cat([r, (total * x).to(r.dtype)], 1)
    y = layer(r) + (total - 1) * cast(Tensor, layer.bias)[:, None, None]
    return y.to(x.dtype) + total * x if skip == "add" else y.to(x.dtype)


def check_plane(x: Tensor, name: str, channels: int) -> None:
    """As :func:`~nsrlib.layers.check_input`; tells who gives RGB to a network for luma what to do."""
    if channels == 1 and x.ndim == 4 and x.shape[1] == 3:
        raise ValueError(
            f"{name} takes luma (N, 1, H, W), got RGB {tuple(x.shape)}: give it nsrlib.images.luma(x)[:, None] / 255, "
            "or take create_model('drcn', scale), which does"
        )
    check_input(x, name, channels, DRCN.min_size)


class LumaDRCN(nn.Module):
    """DRCN as a network from low to high resolution: bicubic upscaling, then :class:`DRCN` on luma.

    Input ``(N, 1, H, W)``, taken as the luma plane (16..235 of 255), or RGB ``(N, 3, H, W)``: what the network changes
    in its luma is added to all three channels, times 255 / 219, which leaves the colour differences bicubic. Output
    ``(N, 1 or 3, rH, rW)``, not clipped; or with ``every=True`` ``(y, [y_1 .. y_D])``, each of that shape.

    Attributes:
        net: the :class:`DRCN`, or a :class:`FastDRCN` in the form that :meth:`fast` returns.
        recursion: None: the ensemble; d: the single prediction ``y_d`` (see :meth:`only`).

    Args:
        scale: 1 for input that has been upscaled already; the weights do not depend on it.
        features ... last_gain: of :class:`DRCN`.
    """

    min_size = 3

    def __init__(
        self,
        scale: int = 4,
        features: int = 256,
        recursions: int = 16,
        skip: Skip = "add",
        share_recon: bool = True,
        share_recursion: bool = True,
        last_relu: bool = False,
        normalize_weights: bool = False,
        ensemble: bool = True,
        learn_weights: bool = True,
        recur_init: str | float = "identity",
        last_gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.net: DRCN | FastDRCN = DRCN(
            1, features, recursions, skip, share_recon, share_recursion, last_relu, normalize_weights,
            ensemble=ensemble, learn_weights=learn_weights, recur_init=recur_init, last_gain=last_gain,
        )  # fmt: skip
        self.halo = math.ceil(self.net.halo / scale) + 3
        self.recursion: int | None = None

    def forward(self, x: Tensor, *, upscaled: bool = False, every: bool = False) -> Any:
        """``upscaled``: the input has its final size already, whatever the scale; ``every``: see the class."""
        colour = x.shape[1:2] == (3,)
        check_input(x, "LumaDRCN", 3 if colour else 1, self.min_size)
        up = x
        if self.scale > 1 and not upscaled:
            up = imresize(x.to(torch.promote_types(x.dtype, torch.float32)), self.scale).to(x.dtype)
        if every and isinstance(self.net, FastDRCN):
            raise ValueError("the fast form has no single predictions; take the network that it was made from")
        if not colour:
            return self.net(up) if every else self._plane(up)
        plane = (luma(up)[:, None] / 255).to(x.dtype)

        def coloured(y: Tensor) -> Tensor:
            return up + 255 / 219 * (y - plane)

        if not every:
            return coloured(self._plane(plane))
        y, ys = self.net(plane)
        return coloured(y), [coloured(one) for one in ys]

    def _plane(self, y: Tensor) -> Tensor:
        if isinstance(self.net, FastDRCN):
            return self.net(y)
        return self.net.collapsed(y) if self.recursion is None else self.net.single(y, self.recursion)

    def only(self, d: int | None) -> LumaDRCN:
        """The same network and weights with the single prediction ``y_d`` as its output; None: the ensemble."""
        if d is not None and not (isinstance(d, int) and 1 <= d <= self.net.recursions):
            raise ValueError(f"d must be None or 1..{self.net.recursions}, got {d!r}")
        if isinstance(self.net, FastDRCN):
            raise ValueError("the fast form has no single predictions; take the network that it was made from")
        view = copy.copy(self)
        view.recursion = d
        return view

    def fast(self, dtype: torch.dtype | None = None, compile: bool = False) -> LumaDRCN:
        """A copy for inference, with :class:`FastDRCN` inside where that can stand in (else channels last)."""
        result = copy.deepcopy(self)
        if isinstance(result.net, DRCN) and self.recursion is None and FastDRCN.accepts(result.net):
            result.net = FastDRCN(result.net, dtype, compile)
        return result.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


# --- losses -----------------------------------------------------------------------------------------------------------


def alpha_schedule(step: int, iterations: int, *, start: float = 1.0, end: float = 0.0, until: float = 0.75) -> float:
    """Weight of the recursions' own losses at a step, counted from 0.

    Falls linearly from ``start`` to ``end`` over the first ``until`` of all ``iterations`` and stays there. The paper
    says that alpha starts high and decays, not how. At 0 single predictions lose their meaning; an ``end`` of 0.5 keeps
    them images.

    Raises:
        ValueError: alphas outside [0, 1], ``until`` outside (0, 1].
    """
    for name, alpha in (("start", start), ("end", end)):
        _check_alpha(name, alpha)
    if not 0 < until <= 1:
        raise ValueError(f"until must be a share of the iterations in (0, 1], got {until!r}")
    done = min(1.0, step / (until * _whole("iterations", iterations)))
    return start + (end - start) * done


def _check_alpha(name: str, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {alpha!r}")


Reduction = Literal["sum", "mean"]


def drcn_losses(
    model: nn.Module, x: Tensor, target: Tensor, alpha: float, *, reduction: Reduction = "sum"
) -> dict[str, Tensor]:
    """The paper's loss as weighted terms (Eqs. 7 to 9): ``recursions`` is ``alpha * l1``, ``ensemble`` the rest.

    ``l1 = 1 / (2 D N) sum_d sum_i |t_i - y_{d,i}|^2``, ``l2 = 1 / (2 N) sum_i |t_i - y_i|^2``, over N images. The
    weight penalty is the optimiser's: the paper's ``beta |theta|^2`` is a ``weight_decay`` of ``2 beta``.

    Args:
        model: a :class:`DRCN`, a :class:`LumaDRCN`, or one of them in DistributedDataParallel. The basic model has one
            prediction, and both terms are its loss.
        x: luma ``(N, 1, H, W)`` in [0, 1] at the target's size, or, for :class:`LumaDRCN`, at low resolution.
        target: ``(N, 1, rH, rW)``.
        alpha: weight of the recursions' losses; from :func:`alpha_schedule`.
        reduction: ``sum`` over pixels as in the paper; ``mean``: divided by the pixels of an image, for a learning
            rate that does not depend on the patch.

    Raises:
        ValueError: alpha outside [0, 1], sizes that do not belong together.
    """
    _check_alpha("alpha", alpha)
    inner = getattr(model, "module", model)
    if isinstance(inner, LumaDRCN):
        y, ys = model(x, upscaled=x.shape[-2:] == target.shape[-2:], every=True)
    else:
        y, ys = model(x)
    if y.shape != target.shape:
        raise ValueError(f"target of {tuple(target.shape)} does not fit the output of {tuple(y.shape)}")
    terms = loss_terms(y, ys, target, reduction)
    return {"recursions": alpha * terms["recursions"], "ensemble": (1 - alpha) * terms["ensemble"]}


def loss_terms(y: Tensor, ys: list[Tensor], target: Tensor, reduction: Reduction = "sum") -> dict[str, Tensor]:
    """``l1`` (recursions), ``l2`` (ensemble) and the loss of the last prediction alone (last), unweighted."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    n = 2 * (target.shape[0] if reduction == "sum" else target.numel())
    each = [(target - p).square().sum() / n for p in ys]
    return {"recursions": torch.stack(each).mean(), "ensemble": (target - y).square().sum() / n, "last": each[-1]}


def training_setup(
    model: nn.Module, recipe: Any, *, start: float = 1.0, end: float = 0.0, until: float = 0.75, reduction: str = "sum"
) -> dict[str, Any]:
    """Keywords of :func:`nsrlib.training.fit`: the losses with the decaying alpha.

    ``measure`` (for :func:`nsrlib.studies.train_and_score`) returns the learned weights, divided by their sum.

    Args:
        model, recipe: as given to ``fit``; batches hold luma, upscaled already or not.
        start, end, until: of :func:`alpha_schedule`. reduction: of :func:`drcn_losses`.
    """

    def losses(network: nn.Module, batch: Any, step: int) -> Mapping[str, Tensor]:
        alpha = alpha_schedule(step, recipe.iterations, start=start, end=end, until=until)
        return drcn_losses(network, batch.input, batch.target, alpha, reduction=cast(Reduction, reduction))

    def measure(network: Any) -> dict[str, float]:
        net = getattr(network, "net", network)
        if not net.ensemble:
            return {}
        w = net.w.detach()
        return {f"w_{d}": float(v) for d, v in enumerate(w / w.sum(), 1)}

    return {"losses": losses, "measure": measure}


# --- inference --------------------------------------------------------------------------------------------------------

# Winograd's F(4x4, 3x3) (Lavin & Gray, CVPR 2016): 36 products for 16 outputs instead of 144.
_WINOGRAD_G = [[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6],
               [0, 0, 1]]  # fmt: skip
_TILES = 256  # of 4x4 outputs at a time, in whole rows: enough for the products, few enough for the cache


class FastDRCN(nn.Module):
    """The ensemble of a :class:`DRCN` for inference: ``(N, C, H, W)`` to ``(N, C, H, W)``, its first output alone.

    The reconstruction is collapsed where it is linear (:meth:`DRCN.collapsed`). On a CPU in float32 and float64, both
    convolutions that read ``H_d`` (the next recursion's and the reconstruction's) are computed together in Winograd's
    form, exact but for rounding; elsewhere they are library calls, channels last. Pictures of any size in bounded
    memory: ``nsrlib.evaluation.upscale(fast, x, tile=...)``; tiles equal the whole.

    Args:
        model: shared recursion and reconstruction (:meth:`accepts`); copied.
        dtype: of the features: None for the model's, or ``torch.bfloat16``, ``torch.float16``. Input, skip, sum over
            the recursions and output keep the input's (at least float32).
        compile: ``torch.compile`` the library calls.
        winograd: None: where it pays.
    """

    scale = 1
    min_size = 3
    embed0: nn.Conv2d
    embed1: nn.Conv2d
    recur: nn.Conv2d
    recon0: nn.Conv2d
    recon1: nn.Conv2d
    u: Tensor

    def __init__(
        self, model: DRCN, dtype: torch.dtype | None = None, compile: bool = False, winograd: bool | None = None
    ) -> None:
        super().__init__()
        if not self.accepts(model):
            raise ValueError("FastDRCN takes a DRCN with an ensemble, a shared recursion and a shared reconstruction")
        self.channels, self.features, self.recursions = model.channels, model.features, model.recursions
        self.skip, self.last_relu, self.halo = model.skip, model.last_relu, model.halo
        self.w: list[float] = model.weights.detach().double().tolist()
        self.total = math.fsum(self.w)
        layers = {"recur": model.recur[0], "recon0": model.recon0[0], "recon1": model.recon1[0]}
        for name, layer in {"embed0": model.embed0, "embed1": model.embed1, **layers}.items():
            self.add_module(name, copy.deepcopy(layer))
        self.to(dtype=dtype or model.embed0.weight.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)
        self.winograd = (model.features >= 48 and not compile) if winograd is None else winograd
        if self.winograd:
            g = torch.tensor(_WINOGRAD_G, dtype=torch.float64)
            layers3 = torch.stack([self.embed1.weight, self.recur.weight, self.recon0.weight]).double()
            u = torch.einsum("ip,jq,kocpq->kjico", g, g, layers3).flatten(1, 2)  # (3, 36, F, F)
            self.register_buffer("u", u.to(self.recur.weight.dtype), persistent=False)
        self._calls: Callable[[Tensor], Tensor] = torch.compile(self._library) if compile else self._library

    @staticmethod
    def accepts(model: nn.Module) -> bool:
        """Whether ``model`` has this form."""
        return isinstance(model, DRCN) and model.ensemble and model.share_recon and model.share_recursion

    def forward(self, x: Tensor) -> Tensor:
        check_plane(x, "DRCN", self.channels)
        kind = self.recur.weight.dtype
        if self.winograd and x.device.type == "cpu" and kind in (torch.float32, torch.float64):
            return torch.cat([self._in_strips(picture) for picture in x.split(1)])
        return self._calls(x)

    def _embed(self, x: Tensor) -> Tensor:
        h = x.to(self.recur.weight.dtype, memory_format=torch.channels_last)
        return F.relu_(self.embed1(F.relu_(self.embed0(h))))

    def _library(self, x: Tensor) -> Tensor:
        h, total = self._embed(x), None
        for w in self.w:
            h = F.relu_(self.recur(h))
            total = self._collect(total, F.relu_(self.recon0(h)), x, w)
        return self._finish(cast(Tensor, total), x)

    def _collect(self, total: Tensor | None, r: Tensor, x: Tensor, w: float) -> Tensor:
        """Add what one recursion contributes: ``w_d R_d``, or after a last ReLU its share of the image."""
        if self.last_relu:
            inputs = torch.cat([r, x.to(r.dtype)], 1) if self.skip == "concat" else r
            r = F.relu_(self.recon1(inputs))
        if total is None:
            return w * r.to(torch.promote_types(r.dtype, torch.float32))
        return total.add_(r, alpha=w)

    def _finish(self, total: Tensor, x: Tensor) -> Tensor:
        if self.last_relu:
            y = total.to(x.dtype)
            return y + self.total * x if self.skip == "add" else y
        return _last_layer(self.recon1, total.to(self.recon1.weight.dtype), x, self.total, self.skip)

    def _in_strips(self, x: Tensor) -> Tensor:
        n, (h, w) = self.features, x.shape[-2:]
        tall, wide = -h // 4 * -4, -w // 4 * -4
        # (rows, columns, F), up to whole 4x4 outputs, in a border of zeros
        state = self.u.new_zeros(tall + 2, wide + 2, n)
        state[1 : h + 1, 1 : w + 1] = F.relu_(self.embed0(x.to(self.u.dtype)))[0].permute(1, 2, 0)
        following = torch.zeros_like(state)
        r = self.u.new_zeros(tall, wide, n)  # R_d if a ReLU comes behind the last layer, else the sum of w_d R_d
        embed1, recur, recon0 = zip(
            self.u, (cast(Tensor, k.bias) for k in (self.embed1, self.recur, self.recon0)), strict=True
        )
        total = None
        for d in range(-1, self.recursions + 1):  # H_d gives H_{d+1}, but for the last, and R_d from H_1 on
            jobs: list[_Job] = []
            if d < self.recursions:
                jobs.append((*(embed1 if d < 0 else recur), following[1:-1, 1:-1], None))
            if d > 0:
                jobs.append((*recon0, r, None if self.last_relu else self.w[d - 1]))
            _winograd_relu(state, jobs)
            if self.last_relu and d > 0:
                total = self._collect(total, r[:h, :w].permute(2, 0, 1)[None], x, self.w[d - 1])
            following[h + 1 :], following[:, w + 1 :] = 0, 0
            state, following = following, state
        del state, following
        return self._finish(r[:h, :w].permute(2, 0, 1)[None] if total is None else total, x)


_Job = tuple[Tensor, Tensor, Tensor, float | None]


def _winograd_relu(padded: Tensor, jobs: list[_Job]) -> None:
    """``relu`` of 3x3 convolutions of one ``(4a + 2, 4b + 2, C)``, whose transform they share.

    Args:
        jobs: for each convolution its transformed kernels ``(36, C, F)``, its bias ``(F,)``, the target
            ``(4a, 4b, F)``, and None: the target is filled; or a number: the target is increased by so much of it.
    """
    c, o = jobs[0][0].shape[1:]
    tall, wide = (padded.shape[0] - 2) // 4, (padded.shape[1] - 2) // 4
    n = min(max(1, _TILES // wide), tall)
    v1 = padded.new_empty(6, n, padded.shape[1], c)
    v = padded.new_empty(6, 6, n, wide, c)  # (column point, row point, ...)
    m = padded.new_empty(6, 6, n, wide, o)
    columns = padded.new_empty(4, 6, n, wide, o)
    y = padded.new_empty(4, 4, n, wide, o)  # (row, column, ...)
    for first in range(0, tall, n):
        top = 4 * min(first, tall - n)  # the last strip may repeat rows, so that all are alike
        _to_points([padded[top + p : top + p + 4 * n - 3 : 4] for p in range(6)], v1)
        _to_points([v1[:, :, q : q + 4 * wide - 3 : 4] for q in range(6)], v)
        for u, bias, target, share in jobs:
            torch.bmm(v.view(36, n * wide, c), u, out=m.view(36, n * wide, o))
            m[1, 1] += bias  # what is at the point (1, 1) reaches all 16 outputs with the factor 1
            _from_points(list(m), columns)
            _from_points(list(columns.unbind(1)), y)
            places = target[top : top + 4 * n].unflatten(1, (wide, 4)).unflatten(0, (n, 4)).permute(1, 3, 0, 2, 4)
            if share is None:
                torch.clamp_min(y, 0, out=places)
            else:  # rows that are repeated have had their share
                fresh = slice(first - top // 4, None)
                places[:, :, fresh].add_(y[:, :, fresh].clamp_min_(0), alpha=share)


def _to_points(d: list[Tensor], out: Tensor) -> None:
    """Six samples to the values at the points 0, 1, -1, 2, -2, infinity: ``B^T d``."""
    a, b = out[0], out[5]  # scratch, until their turn comes
    torch.sub(d[4], d[2], alpha=4, out=a)
    torch.sub(d[3], d[1], alpha=4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.sub(d[4], d[2], alpha=5, out=a).add_(d[0], alpha=4)
    torch.sub(d[5], d[3], alpha=5, out=b).add_(d[1], alpha=4)


def _from_points(m: list[Tensor], out: Tensor) -> None:
    """Products at the six points to four outputs: ``A^T m``. Overwrites ``m``."""
    difference, other = torch.sub(m[1], m[2], out=out[1]), torch.sub(m[3], m[4], out=out[3])
    p, r = m[1].add_(m[2]), m[3].add_(m[4])
    torch.add(p, r, alpha=4, out=out[2])
    torch.add(p, r, out=out[0]).add_(m[0])
    m[5].add_(difference).add_(other, alpha=8)
    difference.add_(other, alpha=2)
    other.copy_(m[5])


# --- the published TensorFlow checkpoint ------------------------------------------------------------------------------

JINY_CHECKPOINT = "model_F96_D9_LR0.001000.ckpt"
JINY_FILES = (f"{JINY_CHECKPOINT}.index", f"{JINY_CHECKPOINT}.data-00000-of-00001")
"""The two files of the checkpoint in ``data/sources.csv``: x2, F = 96, D = 9."""
JINY_ENSEMBLE = 37.288
"""PSNR in dB of that checkpoint on Set5, standard protocol, from a NumPy evaluation apart from this library."""
JINY_RECURSIONS = (34.449, 35.430, 35.152, 34.774, 34.566, 34.198, 33.865, 33.398, 33.143)
"""The same for each recursion on its own, the first one first."""

_JINY_LAYERS = {
    "embed0": ("W-1_conv/conv_W_1", "W-1_conv/conv_B"),
    "embed1": ("W0_conv/conv_W_1", "W0_conv/conv_B"),
    "recur.0": ("W_conv", "B"),
    "recon0.0": ("WD1_conv_1", "BD1"),
    "recon1.0": ("WD2_conv_1", "BD2"),
}


def load_jiny_checkpoint(path: str | os.PathLike) -> dict[str, Tensor]:
    """State dict of a checkpoint of jiny2001/deeply-recursive-cnn-tf, for :func:`jiny_model`'s form of :class:`DRCN`.

    That code works on luma 0..255 with a ReLU behind every layer, the last included, so that all biases divided by 255
    make the same network for [0, 1]. Its input luma has the constants over 256 where MATLAB's has 255.

    Args:
        path: either file of the pair, or their common prefix.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_tf_checkpoint`; or other tensors than a DRCN's.
    """
    wanted = {name for pair in _JINY_LAYERS.values() for name in pair} | {"LayerWeights"}
    tensors = read_tf_checkpoint(path, wanted)
    name = _tf_prefix(path).name
    if missing := sorted(wanted - tensors.keys()):
        raise ValueError(f"{name} is no DRCN of jiny2001: it lacks {', '.join(missing)}")
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    f = shapes["W_conv"][-1] if shapes["W_conv"] else 0
    expected = {
        "W-1_conv/conv_W_1": (3, 3, 1, f), "W0_conv/conv_W_1": (3, 3, f, f), "W_conv": (3, 3, f, f),
        "WD1_conv_1": (3, 3, f, f), "WD2_conv_1": (3, 3, f + 1, 1), "W-1_conv/conv_B": (f,), "W0_conv/conv_B": (f,),
        "B": (f,), "BD1": (f,), "BD2": (1,),
    }  # fmt: skip
    wrong = [f"{key} {shapes[key]}, expected {shape}" for key, shape in expected.items() if shapes[key] != shape]
    if wrong or len(shapes["LayerWeights"]) != 1:
        raise ValueError(f"{name} is no DRCN of jiny2001: {'; '.join(wrong) or 'LayerWeights is no vector'}")
    state = {"w": tensors["LayerWeights"]}
    for layer, (weight, bias) in _JINY_LAYERS.items():
        state[f"{layer}.weight"] = tensors[weight].permute(3, 2, 0, 1).contiguous()
        state[f"{layer}.bias"] = tensors[bias] / 255
    return state


def jiny_model(path: str | os.PathLike | None = None, scale: int = 2) -> LumaDRCN:
    """The network of :func:`load_jiny_checkpoint`, in evaluation mode; published for x2.

    Args:
        path: as there; None: found or downloaded like all published weights. No hash of the two files is known, so
            what vouches for them is the pinned address and the checksums inside.

    Raises:
        nsrlib.data.DataUnavailable: the checkpoint cannot be had. ValueError, FileNotFoundError: as there.
    """
    if path is None:
        from nsrlib.data.download import weights_path

        path, _ = [weights_path(name) for name in JINY_FILES]
    state = load_jiny_checkpoint(path)
    features, recursions = state["embed1.bias"].numel(), state["w"].numel()
    model = LumaDRCN(scale, features, recursions, "concat", last_relu=True, normalize_weights=True)
    model.net.load_state_dict(state)
    return model.eval()


def _tf_prefix(path: str | os.PathLike) -> Path:
    path = Path(path)
    for suffix in (".index", ".data-00000-of-00001", ".meta"):
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix))
    return path


def read_tf_checkpoint(path: str | os.PathLike, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Float32 tensors of a TensorFlow checkpoint (V2, one data file), without TensorFlow and without running its code.

    Every length and offset is checked against the files, and every checksum that the format has is compared.

    Args:
        path: the ``.index`` file, the ``.data-00000-of-00001`` file or their common prefix.
        names: only these, as far as they are there; default: all that are float32.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: truncated, damaged, or something else.
    """
    prefix = _tf_prefix(path)
    files = [prefix.with_name(prefix.name + end) for end in (".index", ".data-00000-of-00001")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no such checkpoint file: {file}")
    index, data = (file.read_bytes() for file in files)
    try:
        entries = dict(_table(index))
        header = _message(entries.pop(b"", b""))
        if header.get(1, [1]) != [1] or header.get(2, [0]) != [0]:
            raise _Damaged("it has several data files, or big-endian numbers")
        decoded = ((key.decode(errors="replace"), value) for key, value in entries.items())
        chosen = {name: value for name, value in decoded if names is None or name in names}
        tensors = {name: _tensor(name, _message(value), data, names is not None) for name, value in chosen.items()}
    except _Damaged as error:
        raise ValueError(f"{prefix.name} is damaged or no TensorFlow checkpoint: {error}") from None
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


class _Damaged(Exception):
    pass


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(content) < 48 or content[-8:] != struct.pack("<Q", 0xDB4775248B80FB57):
        raise _Damaged("the index does not end as a table does")
    footer = content[-48:-8]
    _, at = _handle(footer, 0)  # of the block of filters
    (start, size), _ = _handle(footer, at)
    for _, value in _block(content, start, size):
        (start, size), _ = _handle(value, 0)
        yield from _block(content, start, size)


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = _varint(content, at)
    size, at = _varint(content, at)
    return (start, size), at


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = start + size
    if end + 5 > len(content) - 48 or size < 4:
        raise _Damaged(f"a block of {size} bytes at {start} lies outside the index")
    if content[end]:
        raise _Damaged("a block of the index is compressed")
    if _masked_crc(content[start : end + 1]) != int.from_bytes(content[end + 1 : end + 5], "little"):
        raise _Damaged("a block of the index does not match its checksum")
    restarts = int.from_bytes(content[end - 4 : end], "little")
    block = content[start : max(start, end - 4 * (restarts + 1))]
    key, at = b"", 0
    while at < len(block):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > len(block):
            raise _Damaged("an entry of the index is longer than its block")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for k in range(10):
        if at >= len(content):
            break
        byte, at = content[at], at + 1
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at
    raise _Damaged("a number of the index has no end")


def _message(content: bytes) -> dict[int, list[Any]]:
    """Fields of a protocol buffer by number: whole numbers, or bytes."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            value, at = content[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(content[at : at + size], "little"), at + size
        else:
            raise _Damaged(f"a record has a field of unknown kind {kind}")
        if at > len(content):
            raise _Damaged("a record ends too early")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _tensor(name: str, entry: dict[int, list[Any]], data: bytes, needed: bool) -> Tensor | None:
    if entry.get(1) != [1]:  # DT_FLOAT
        if needed:
            raise _Damaged(f"{name} is not float32")
        return None
    shape = []
    for part in entry.get(2, []):
        for dim in _fields_of(name, part).get(2, []):
            shape += _fields_of(name, dim).get(1, [0])
    offset, size, crc = (entry.get(k, [0])[-1] for k in (4, 5, 6))
    if not all(isinstance(v, int) for v in (offset, size, crc, *shape)) or entry.get(3, [0]) != [0]:
        raise _Damaged(f"the record of {name} makes no sense")
    if size != 4 * math.prod(shape) or not size:
        raise _Damaged(f"{name} has {size} bytes for the shape {tuple(shape)}")
    if offset + size > len(data):
        raise _Damaged(f"{name} ends at byte {offset + size} of a data file of {len(data)}")
    raw = data[offset : offset + size]
    if _masked_crc(raw) != crc:
        raise _Damaged(f"{name} does not match its checksum")
    return torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(shape).clone()


def _fields_of(name: str, content: Any) -> dict[int, list[Any]]:
    if not isinstance(content, bytes):
        raise _Damaged(f"the record of {name} makes no sense")
    return _message(content)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def _masked_crc(content: bytes) -> int:
    """CRC-32C as LevelDB and TensorFlow store it: rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
