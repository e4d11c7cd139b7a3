"""DRCN (Kim et al., "Deeply-Recursive Convolutional Network for Image Super-Resolution", CVPR 2016, arXiv 1511.04491).

One 3x3 convolution ``W``, at first the identity, is applied D times to the features of the upscaled image, ``H_d =
relu(W * H_{d-1} + b)``. The same two-layer reconstruction decodes every ``H_d`` into a prediction ``y_d`` that is
supervised; the output is their sum with learned weights (Secs. 3.1, 3.2).

Where the paper leaves a choice: the additive skip goes without a last ReLU, whose output could only be brighter than
the input (the basic model's Eq. 6 has one); the weights are not normalised and start at 1/D; how alpha decays is not
printed, see :func:`alpha_schedule`.

Options follow the authors' code (kjw0612/rcn, commit e3777dc) where it parts from the paper: all F -> F layers start as
the identity (``inner_init``), the last layer at a thousandth (``last_gain``), no ReLU between the two layers of the
reconstruction (``recon_relu``), alpha follows the learning rate. Its prediction from ``H_0``, its dropout and the
ensemble's random start are not built.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.layers import check_input
from nsrlib.models.baselines import upscaled_luma
from nsrlib.models.winograd import Job, transformed, winograd_relu

Skip = Literal["add", "concat", "none"]
SKIPS: tuple[str, ...] = get_args(Skip)
InnerInit = Literal["he", "identity"]


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
    return value


class DRCN(nn.Module):
    """The network on an image ``(N, channels, H, W)`` that has its final size already; in the paper luma over 255.

    Output ``(y, [y_1 .. y_D])``, each of the input's shape and not clipped.

    ===============  ===========  ==============================================  =====================
    share_recursion  share_recon  design (Fig. 3)                                 parameters grow
    ===============  ===========  ==============================================  =====================
    True             True         (a) the paper's                                 not at all
    True             False        (b) a reconstruction of its own for each y_d    linearly with D
    False            True         a chain of D different layers                   linearly with D
    False            False        (c) a network of its own for each y_d           with the square of D
    ===============  ===========  ==============================================  =====================

    Args:
        features: F. recursions: D.
        skip: the input is added to each prediction, concatenated to the last layer's input, or not used.
        last_relu: ReLU after the last layer. normalize_weights: divide the ensemble's weights by their sum.
        ensemble: False: the basic model, whose only prediction is ``y_D`` (Sec. 3.1).
        learn_weights: False: the weights stay at 1/D.
        recur_init: ``identity``, or a number g: He's normal initialisation times g.
        inner_init: of the other two F -> F layers: ``he``, as the paper, or ``identity``, as the authors' code.
        last_gain: factor of the last layer's first weights; 0.1 starts near the input.
        recon_relu: False: no ReLU between the two layers of the reconstruction, as the authors' code.
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
        inner_init: InnerInit = "he",
        last_gain: float = 1.0,
        recon_relu: bool = True,
    ) -> None:
        super().__init__()
        if inner_init not in get_args(InnerInit):
            raise ValueError(f"inner_init must be one of {', '.join(get_args(InnerInit))}, got {inner_init!r}")
        if skip not in SKIPS:
            raise ValueError(f"skip must be one of {', '.join(SKIPS)}, got {skip!r}")
        if recur_init != "identity" and (isinstance(recur_init, str) or not recur_init >= 0):
            raise ValueError(f"recur_init must be 'identity' or a factor of He's initialisation, got {recur_init!r}")
        self.channels, self.features = _whole("channels", channels), _whole("features", features)
        self.recursions = _whole("recursions", recursions)
        self.skip, self.share_recon, self.share_recursion = skip, share_recon, share_recursion
        self.last_relu, self.normalize_weights, self.ensemble = last_relu, normalize_weights, ensemble
        self.recon_relu = recon_relu
        self.halo = recursions + 4  # context that a pixel sees on each side
        outputs = recursions if ensemble else 1
        if ensemble:
            self.w = nn.Parameter(torch.full((recursions,), 1 / recursions), requires_grad=learn_weights)
        if ensemble and not (share_recon or share_recursion):
            self.paths = nn.ModuleList(
                DRCN(
                    channels, features, d, skip, True, False, last_relu,
                    ensemble=False, recur_init=recur_init, inner_init=inner_init, last_gain=last_gain,
                    recon_relu=recon_relu,
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
            if inner_init == "identity":
                for layer in (self.embed1, *self.recon0):
                    nn.init.dirac_(cast(nn.Conv2d, layer).weight)
            for layer in self.recon1:
                cast(nn.Conv2d, layer).weight.mul_(last_gain)

    @property
    def weights(self) -> Tensor:
        return self.w / self.w.sum() if self.normalize_weights else self.w

    def embed(self, x: Tensor) -> Tensor:
        """``H_0``, ``(N, F, H, W)``."""
        return F.relu(self.embed1(F.relu(self.embed0(x))))

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """``H_0, H_1 .. H_D``."""
        h = self.embed(x)
        yield h
        for d in range(self.recursions):
            h = F.relu(self.recur[d if len(self.recur) > 1 else 0](h))
            yield h

    def reconstruct(self, h: Tensor, x: Tensor, d: int) -> Tensor:
        """``y_d`` from ``H_d`` and the input (Eq. 5); d counts from 1."""
        k = d - 1 if len(self.recon0) > 1 else 0
        r = self.recon0[k](h)
        r = F.relu(r) if self.recon_relu else r
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
        """Eq. 7's weighted sum; of the basic model, its only prediction."""
        if not self.ensemble:
            return ys[0]
        return sum((w * y for w, y in zip(self.weights, ys, strict=True)), start=torch.zeros_like(ys[0]))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        ys = self.predictions(x)
        return self.combine(ys), ys

    def collapsed(self, x: Tensor) -> Tensor:
        """``y`` with one last layer instead of D: it is linear, unless a ReLU follows, so it may follow the sum.

        ``sum_d w_d (W_2 * R_d + b_2) = W_2 * (sum_d w_d R_d) + b_2 sum_d w_d``; the skip is scaled by ``sum_d w_d``.
        """
        if not self.ensemble or not self.share_recon or self.last_relu:
            return self(x)[0]
        check_plane(x, "DRCN", self.channels)
        weights, h = self.weights, self.states(x)
        next(h)
        act = F.relu if self.recon_relu else nn.Identity()
        r = sum(w * act(self.recon0[0](s)) for w, s in zip(weights, h, strict=True))
        return _last_layer(cast(nn.Conv2d, self.recon1[0]), cast(Tensor, r), x, weights.sum(), self.skip)


def _last_layer(layer: nn.Conv2d, r: Tensor, x: Tensor, total: Tensor | float, skip: str) -> Tensor:
    """The linear last layer behind ``r = sum_d w_d R_d``; ``total`` is the sum of the weights."""
    if skip == "concat":
        r = torch.cat([r, (total * x).to(r.dtype)], 1)
    y = layer(r) + (total - 1) * cast(Tensor, layer.bias)[:, None, None]
    return y.to(x.dtype) + total * x if skip == "add" else y.to(x.dtype)


def check_plane(x: Tensor, name: str, channels: int) -> None:
    """:func:`~nsrlib.layers.check_input`, which tells who gives RGB to a network for luma what to do."""
    if channels == 1 and x.ndim == 4 and x.shape[1] == 3:
        raise ValueError(
            f"{name} takes luma (N, 1, H, W), got RGB {tuple(x.shape)}: give it nsrlib.images.luma(x)[:, None] / 255, "
            "or take create_model('drcn', scale), which does"
        )
    check_input(x, name, channels, DRCN.min_size)


class LumaDRCN(nn.Module):
    """DRCN as a network from low to high resolution: bicubic upscaling, then :class:`DRCN` on luma.

    Input and output as of :class:`~nsrlib.models.baselines.LumaResidual`; with ``every=True`` the output is
    ``(y, [y_1 .. y_D])``. :func:`nsrlib.models.optimise` makes ``net`` a :class:`FastDRCN`.
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
        inner_init: InnerInit = "he",
        recon_relu: bool = True,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.net: DRCN | FastDRCN = DRCN(
            1, features, recursions, skip, share_recon, share_recursion, last_relu, normalize_weights,
            ensemble=ensemble, learn_weights=learn_weights, recur_init=recur_init, inner_init=inner_init,
            last_gain=last_gain, recon_relu=recon_relu,
        )  # fmt: skip
        self.halo = math.ceil(self.net.halo / scale) + 3

    def refine(self, plane: Tensor) -> Tensor:
        """The network's answer to an upscaled luma ``(N, 1, H, W)``."""
        return self.net(plane) if isinstance(self.net, FastDRCN) else self.net.collapsed(plane)

    def forward(self, x: Tensor, *, upscaled: bool = False, every: bool = False) -> Any:
        """``upscaled``: the input has its final size already; ``every``: see the class."""
        up, plane = upscaled_luma(x, "LumaDRCN", 1 if upscaled else self.scale, self.min_size)

        def coloured(y: Tensor) -> Tensor:
            return y if plane is up else up + 255 / 219 * (y - plane)

        if not every:
            return coloured(self.refine(plane))
        if isinstance(self.net, FastDRCN):
            raise ValueError("the fast form has no single predictions; take the network that it was made from")
        y, ys = self.net(plane)
        return coloured(y), [coloured(one) for one in ys]


def alpha_schedule(step: int, iterations: int, *, start: float = 1.0, end: float = 0.0, until: float = 0.75) -> float:
    """Weight of the recursions' own losses at a step, counted from 0: linear over the share ``until`` of the training.

    The paper says that alpha starts high and decays, not how; for the authors' code see
    :func:`nsrlib.papers.drcn.studies.training_setup`. At 0 single predictions lose their meaning; an ``end`` of
    0.5 keeps them images.

    Example:
        >>> [alpha_schedule(step, 8) for step in (0, 3, 6, 7)]
        [1.0, 0.5, 0.0, 0.0]
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


def drcn_losses(model: nn.Module, x: Tensor, target: Tensor, alpha: float) -> dict[str, Tensor]:
    """The paper's loss (Eqs. 7 to 9): ``recursions`` is ``alpha * l1``, ``ensemble`` ``(1 - alpha) * l2``.

    ``l1 = 1 / (2 D N) sum_d sum_i |t_i - y_{d,i}|^2``, ``l2 = 1 / (2 N) sum_i |t_i - y_i|^2``, over N images. The
    weight penalty is the optimiser's: the paper's ``beta |theta|^2`` is a ``weight_decay`` of ``2 beta``.

    ``x`` is luma ``(N, 1, H, W)`` in [0, 1] at the target's size, or, for :class:`LumaDRCN`, at low resolution.
    """
    _check_alpha("alpha", alpha)
    inner = getattr(model, "module", model)
    if isinstance(inner, LumaDRCN):
        y, ys = model(x, upscaled=x.shape[-2:] == target.shape[-2:], every=True)
    else:
        y, ys = model(x)
    if y.shape != target.shape:
        raise ValueError(f"target of {tuple(target.shape)} does not fit the output of {tuple(y.shape)}")
    terms = loss_terms(y, ys, target)
    return {"recursions": alpha * terms["recursions"], "ensemble": (1 - alpha) * terms["ensemble"]}


def loss_terms(y: Tensor, ys: list[Tensor], target: Tensor) -> dict[str, Tensor]:
    """``l1`` (recursions), ``l2`` (ensemble) and the loss of the last prediction alone (last), unweighted."""
    n = 2 * target.shape[0]
    each = [(target - p).square().sum() / n for p in ys]
    return {"recursions": torch.stack(each).mean(), "ensemble": (target - y).square().sum() / n, "last": each[-1]}


def training_setup(
    model: nn.Module, recipe: Any, *, alpha: Callable[[int], float] | None = None, **schedule: float
) -> dict[str, Any]:
    """Fields of :class:`nsrlib.training.Hooks`: the losses, with ``alpha`` of the step.

    Without ``alpha``, :func:`alpha_schedule` gives it; ``schedule`` are its keywords.

    ``measure`` (for :func:`nsrlib.studies.train_and_score`) returns the learned weights, divided by their sum.
    """

    of_step = alpha or (lambda step: alpha_schedule(step, recipe.iterations, **schedule))

    def losses(network: nn.Module, batch: Any, step: int) -> Mapping[str, Tensor]:
        return drcn_losses(network, batch.input, batch.target, of_step(step))

    def measure(network: Any) -> dict[str, float]:
        net = getattr(network, "net", network)
        if not net.ensemble:
            return {}
        w = net.w.detach()
        return {f"w_{d}": float(v) for d, v in enumerate(w / w.sum(), 1)}

    return {"losses": losses, "measure": measure}


class FastDRCN(nn.Module):
    """The ensemble of a :class:`DRCN` for inference: ``(N, C, H, W)`` to ``(N, C, H, W)``, its first output alone.

    The reconstruction is collapsed where it is linear (:meth:`DRCN.collapsed`). On a CPU in float32 and float64, both
    convolutions that read ``H_d`` (the next recursion's and the reconstruction's) are computed together in Winograd's
    form, exact but for rounding; elsewhere they are library calls, channels last.

    Args:
        model: one that :meth:`accepts` takes; copied.
        dtype: of the features, default the model's. The sum over the recursions is in float32 at least.
        compile: ``torch.compile`` the library calls. winograd: None: where it pays.
    """

    scale, min_size = 1, 3
    u: Tensor

    def __init__(
        self, model: DRCN, dtype: torch.dtype | None = None, compile: bool = False, winograd: bool | None = None
    ) -> None:
        super().__init__()
        if not self.accepts(model):
            kind = "an ensemble, a shared recursion and a shared reconstruction with its ReLU"
            raise ValueError(f"FastDRCN takes a DRCN with {kind}")
        self.channels, self.features, self.recursions = model.channels, model.features, model.recursions
        self.skip, self.last_relu, self.halo = model.skip, model.last_relu, model.halo
        self.w: list[float] = model.weights.detach().cpu().double().tolist()
        self.total = math.fsum(self.w)
        layers = (model.embed0, model.embed1, model.recur[0], model.recon0[0], model.recon1[0])
        self.embed0, self.embed1, self.recur, self.recon0, self.recon1 = (
            cast(nn.Conv2d, copy.deepcopy(layer)) for layer in layers
        )
        self.to(dtype=dtype or model.embed0.weight.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)
        self.winograd = (model.features >= 48 and not compile) if winograd is None else winograd
        if self.winograd:
            kernels = torch.stack([self.embed1.weight, self.recur.weight, self.recon0.weight])
            self.register_buffer("u", transformed(kernels), persistent=False)  # (3, 36, F, F)
        self._calls: Callable[[Tensor], Tensor] = torch.compile(self._library) if compile else self._library

    @staticmethod
    def accepts(model: nn.Module) -> bool:
        shared = isinstance(model, DRCN) and model.ensemble and model.share_recon and model.share_recursion
        return shared and cast(DRCN, model).recon_relu

    def forward(self, x: Tensor) -> Tensor:
        check_plane(x, "DRCN", self.channels)
        kind = self.recur.weight.dtype
        if self.winograd and x.device.type == "cpu" and kind in (torch.float32, torch.float64):
            return torch.cat([self._in_strips(picture) for picture in x.split(1)])
        return self._calls(x)

    def _library(self, x: Tensor) -> Tensor:
        h = x.to(self.recur.weight.dtype, memory_format=torch.channels_last)
        h, total, image = F.relu_(self.embed1(F.relu_(self.embed0(h)))), None, self._of_image(x)
        for w in self.w:
            h = F.relu_(self.recur(h))
            total = self._collect(total, F.relu_(self.recon0(h)), image, w)
        return self._finish(cast(Tensor, total), x)

    def _of_image(self, x: Tensor) -> Tensor:
        """What the last layer adds to the share of ``R_d``, the same for all d: its bias and its view of the image."""
        weight, bias = self.recon1.weight, cast(Tensor, self.recon1.bias)
        if not self.last_relu or self.skip != "concat":
            return bias[:, None, None]
        return F.conv2d(x.to(weight.dtype), weight[:, self.features :], bias, padding=1)

    def _collect(self, total: Tensor | None, r: Tensor, image: Tensor, w: float) -> Tensor:
        """Add ``w_d R_d``, or after a last ReLU its share of the output; ``image`` of :meth:`_of_image`."""
        if self.last_relu:
            r = F.relu_(F.conv2d(r, self.recon1.weight[:, : self.features], padding=1).add_(image))
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
        biases = (cast(Tensor, layer.bias) for layer in (self.embed1, self.recur, self.recon0))
        embed1, recur, recon0 = zip(self.u, biases, strict=True)
        total, image = None, self._of_image(x)
        for d in range(-1, self.recursions + 1):  # H_d gives H_{d+1}, but for the last, and R_d from H_1 on
            jobs: list[Job] = []
            if d < self.recursions:
                jobs.append((*(embed1 if d < 0 else recur), following[1:-1, 1:-1], None))
            if d > 0:
                jobs.append((*recon0, r, None if self.last_relu else self.w[d - 1]))
            winograd_relu(state, jobs)
            if self.last_relu and d > 0:
                total = self._collect(total, r[:h, :w].permute(2, 0, 1)[None], image, self.w[d - 1])
            following[h + 1 :], following[:, w + 1 :] = 0, 0
            state, following = following, state
        del state, following
        return self._finish(r[:h, :w].permute(2, 0, 1)[None] if total is None else total, x)
