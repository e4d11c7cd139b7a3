"""All networks by name: :func:`create_model`, :func:`list_models`, :func:`load_weights`."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import os
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import nn

from nsrlib import data
from nsrlib.models.addersr import AdderEDSR, AdderVDSR
from nsrlib.models.baselines import EDSR, IMDN, RFDN, VDSR, WDSR, Bicubic, DnCNN, EDSRBaseline, WideFrame
from nsrlib.models.bsrn import BSRN, BSRNS, FusedBSRN, Kernels
from nsrlib.models.drcn import FastDRCN, LumaDRCN
from nsrlib.models.drn import DRNL, DRNS
from nsrlib.models.nsr import NSR, gated_layers
from nsrlib.models.weights import WEIGHTS_DIR, load_weights, read_metadata
from nsrlib.ops.common import one_by_one_dilation

__all__ = [
    "BUILDERS",
    "PUBLISHED",
    "WEIGHTS_DIR",
    "create_model",
    "list_models",
    "load_weights",
    "optimise",
    "read_metadata",
]

Builder = Callable[..., nn.Module]
_SCALES = (2, 3, 4)

BUILDERS: dict[str, tuple[Builder, tuple[int, ...]]] = {
    "addersr_edsr": (AdderEDSR, _SCALES),
    "addersr_vdsr": (AdderVDSR, (1, *_SCALES)),
    "bicubic": (Bicubic, (1, *_SCALES, 8)),
    "bsrn": (BSRN, _SCALES),
    "bsrn_s": (BSRNS, _SCALES),
    "dncnn": (DnCNN, (1,)),
    "drcn": (LumaDRCN, (1, *_SCALES)),
    "drn_l": (DRNL, (2, 4, 8)),
    "drn_s": (DRNS, (2, 4, 8)),
    "edsr": (EDSR, _SCALES),
    "edsr_baseline": (EDSRBaseline, _SCALES),
    "imdn": (IMDN, _SCALES),
    "nsr": (NSR, (1, *_SCALES)),
    "rfdn": (RFDN, _SCALES),
    "vdsr": (VDSR, (1, *_SCALES)),
    "wdsr": (WDSR, (1, *_SCALES)),
}
"""What makes a network, and its scales."""

PUBLISHED: dict[tuple[str, int], str] = {
    ("bsrn", 2): "net_g_BSRN_x2.pth",
    ("bsrn", 3): "net_g_BSRN_x3.pth",
    ("bsrn", 4): "net_g_BSRN_x4.pth",
    ("bsrn_s", 4): "net_g_BSRN-S.pth",
    ("rfdn", 4): "RFDN_AIM.pth",
    ("imdn", 4): "imdn_baseline.pth",
    ("dncnn", 1): "dncnn_25.pth",
}
"""Weights that the authors released: file names in ``data/sources.csv``. DnCNN's are for gray noise of sigma 25."""


def _added() -> dict[str, metadata.EntryPoint]:
    return {p.name: p for p in metadata.entry_points(group="nsrlib.models") if p.name not in BUILDERS}


def _builder(name: str) -> tuple[Builder, tuple[int, ...]]:
    if name in BUILDERS:
        return BUILDERS[name]
    if name not in (added := _added()):
        close = difflib.get_close_matches(str(name), list_models(), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown model {name!r}{hint}; known: {', '.join(list_models())}")
    builder = added[name].load()
    return builder, tuple(getattr(builder, "scales", _SCALES))


def list_models() -> list[str]:
    """Names that :func:`create_model` knows: this library's, and those of packages that add networks.

    Such a package names a class (or function) that takes ``scale`` in its ``pyproject.toml``; an attribute ``scales``
    says which there are::

        [project.entry-points."nsrlib.models"]
        espcn = "nsrlib_espcn.network:ESPCN"
    """
    return sorted([*BUILDERS, *_added()])


def create_model(
    name: str, scale: int | None = None, pretrained: bool | str | os.PathLike = False, **config: Any
) -> nn.Module:
    """Build a network, in evaluation mode when weights are loaded.

    Args:
        scale: upscaling factor; default 4, or 1 for a network that has no other.
        pretrained: False: random weights. ``"published"``: what the authors released (found in ``NSRLIB_DATA`` or the
            cache, else downloaded and verified). True: small weights trained with this library, and their size. A path:
            that file.
        config: keywords of the network's class, for example ``num_feats=48``.

    Raises:
        ValueError: unknown name, scale, keyword or weights; the message lists what is possible.
        nsrlib.data.DataUnavailable: published weights that cannot be had.

    Example:
        >>> model = create_model("bsrn", scale=2, num_feats=16, num_blocks=2)
        >>> model(torch.zeros(1, 3, 20, 24)).shape
        torch.Size([1, 3, 40, 48])
        >>> create_model("bsrm")
        Traceback (most recent call last):
        ValueError: unknown model 'bsrm' (did you mean 'bsrn'?); known: ...
    """
    builder, scales = _builder(name)
    if scale is None:
        scale = 4 if 4 in scales else scales[0]
    if scale not in scales:
        raise ValueError(f"scale of {name} must be one of {', '.join(map(str, scales))}, got {scale!r}")
    accepted = [p for p in inspect.signature(builder).parameters if p != "scale"]
    unknown = sorted(set(config) - set(accepted))
    if unknown:
        possible = ", ".join(accepted) or "none"
        raise ValueError(f"{name} takes no keyword {', '.join(map(repr, unknown))}; accepted: {possible}")
    if name == "bicubic":
        if pretrained not in (True, False, "published"):
            raise ValueError(f"bicubic has no weights, got {str(pretrained)!r}; give 'published'")
        return builder(scale=int(scale)).eval()
    if pretrained is False:
        return builder(scale=int(scale), **config)
    path = _weights_file(name, scale, pretrained)
    if pretrained is True:
        config = json.loads(read_metadata(path).get("config", "{}")) | config
    return load_weights(builder(scale=int(scale), **config), path).eval()


def _weights_file(name: str, scale: int, pretrained: bool | str | os.PathLike) -> str | os.PathLike:
    if pretrained == "published":
        if (name, scale) not in PUBLISHED:
            have = ", ".join(f"{m} x{s}" for m, s in PUBLISHED)
            raise ValueError(f"no published weights for {name} x{scale}; there are: {have}")
        return data.weights_path(PUBLISHED[name, scale])
    if pretrained is True:
        path = WEIGHTS_DIR / f"{name}_x{scale}.safetensors"
        if not path.exists():
            have = ", ".join(sorted(p.stem for p in WEIGHTS_DIR.glob("*.safetensors"))) or "none yet"
            raise ValueError(f"no weights trained here for {name} x{scale} (there are: {have}); try 'published'")
        return path
    return pretrained  # type: ignore[return-value]


def optimise(model: nn.Module, device: str | torch.device | None = None, kernels: Kernels = "auto") -> nn.Module:
    """The fastest inference-only form of ``model`` that computes the same function to float rounding.

    BSRN becomes :class:`~nsrlib.models.bsrn.FusedBSRN`, DRCN works in :class:`~nsrlib.models.drcn.FastDRCN`; any other
    network is copied channels last, with weight norm folded into its weights and its 1x1 convolutions steered to oneDNN
    on a CPU. In evaluation mode, without gradients; ``model`` itself is left alone.

    Args:
        device: where the result shall be; default: where ``model`` is.
        kernels: of :class:`~nsrlib.models.bsrn.FusedBSRN`.

    Example:
        >>> model, x = create_model("edsr_baseline", 2, num_blocks=1).eval(), torch.ones(1, 3, 8, 8)
        >>> bool((optimise(model)(x) - model(x)).abs().max() < 1e-4)
        True
    """
    if isinstance(model, FusedBSRN):
        return model.to(device)
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(model, BSRN) and FusedBSRN.accepts(model):
        fast: nn.Module = FusedBSRN(model, kernels)
    else:
        fast = copy.deepcopy(model)
        if isinstance(fast, LumaDRCN) and FastDRCN.accepts(fast.net):
            fast.net = FastDRCN(fast.net)  # type: ignore[arg-type]
        if isinstance(fast, WideFrame):
            fast.fold()
        # a CPU's grouped convolutions, on which gated layers rest there, read planes
        planes = torch.device(device).type == "cpu" and gated_layers(fast)
        layout = torch.contiguous_format if planes else torch.channels_last
        fast = fast.to(memory_format=layout)  # type: ignore[call-overload]
        for layer in fast.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.dilation = (one_by_one_dilation(torch.device(device)),) * 2
    return fast.to(device).eval().requires_grad_(False)
