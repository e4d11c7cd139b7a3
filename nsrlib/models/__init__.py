"""All networks by name: :func:`create_model`, :func:`list_models`, :func:`load_weights`."""

from __future__ import annotations

import copy
import difflib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nsrlib import data
from nsrlib.models.addersr import AdderEDSR, AdderVDSR
from nsrlib.models.baselines import EDSR, SRCNN, VDSR, WDSR, Bicubic, DnCNN, EDSRBaseline, WideFrame
from nsrlib.models.bsrn import BSRN, BSRNS, FusedBSRN, Kernels
from nsrlib.models.checkpoints import shown
from nsrlib.models.distillation import IMDN, RFDN, ChallengeIMDN
from nsrlib.models.drcn import FastDRCN, LumaDRCN
from nsrlib.models.drn import DRNL, DRNS
from nsrlib.models.nsr import NSR, gated_layers
from nsrlib.models.weights import (
    WEIGHTS_DIR,
    Misfit,
    describe,
    fill,
    fitting,
    load_weights,
    note_weights,
    read_metadata,
    read_state_dict,
)
from nsrlib.ops.common import one_by_one_dilation

__all__ = [
    "BUILDERS",
    "PUBLISHED",
    "WEIGHTS_DIR",
    "create_model",
    "describe",
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
    "imdn_ntire22": (ChallengeIMDN, _SCALES),
    "nsr": (NSR, (1, *_SCALES)),
    "rfdn": (RFDN, _SCALES),
    "srcnn": (SRCNN, (1, *_SCALES)),
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
    **{("imdn", scale): f"IMDN_x{scale}.pth" for scale in _SCALES},
    ("imdn_ntire22", 4): "imdn_baseline.pth",
    ("dncnn", 1): "dncnn_25.pth",
    **{("srcnn", scale): f"SRCNN_955_x{scale}.mat" for scale in _SCALES},
    **{("vdsr", scale): "VDSR_Official.mat" for scale in _SCALES},
}
"""Weights that the authors released: file names in ``data/sources.csv``. DnCNN's are for gray noise of sigma 25."""


WITHOUT_WEIGHTS = ("bicubic",)
"""Networks that have nothing to load."""

LARGEST_OPTION = 1024
"""Of a network that is built as a weights file says, so that a file cannot ask for a thousand million layers."""


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
    name: str | None = None, scale: int | None = None, pretrained: bool | str | os.PathLike = False, **config: Any
) -> nn.Module:
    """Build a network, in evaluation mode when weights are loaded.

    Args:
        name: of the network; may be left out where a weights file says it.
        scale: upscaling factor; default: the weights file's, else 4, or 1 for a network that has no other.
        pretrained: False: random weights. ``"published"``: what the authors released (found in ``NSRLIB_DATA`` or the
            cache, else downloaded and verified). True: small weights trained with this library, and their size. A path:
            that file, with the network, scale and options that it names (:func:`~nsrlib.models.weights.describe`).
        config: keywords of the network's class, for example ``num_feats=48``.

    Raises:
        ValueError: unknown name, scale, keyword or weights, with what is possible; weights of another network, scale or
            size than asked for, or for a network that has none.
        nsrlib.data.DataUnavailable: published weights that cannot be had.

    Example:
        >>> model = create_model("bsrn", scale=2, num_feats=16, num_blocks=2)
        >>> model(torch.zeros(1, 3, 20, 24)).shape
        torch.Size([1, 3, 40, 48])
        >>> type(create_model(pretrained=WEIGHTS_DIR / "drcn_x3.safetensors")).__name__
        'LumaDRCN'
        >>> create_model("bsrm")
        Traceback (most recent call last):
        ValueError: unknown model 'bsrm' (did you mean 'bsrn'?); known: ...
    """
    file, about = None, dict[str, Any]()
    if not isinstance(pretrained, bool) and pretrained != "published":
        file, about = Path(pretrained), describe(pretrained)
    if name is None and "model" not in about:
        raise ValueError(f"{f'{file.name} does not say' if file else 'say'} which network it is: name a model")
    _compare(about, {"model": name, "scale": scale} | config, file)
    name = str(name or about["model"])
    _, scales = _builder(name)
    if scale is None:
        scale = about.get("scale", 4 if 4 in scales else scales[0])
    if scale not in scales:
        raise ValueError(f"scale of {name} must be one of {', '.join(map(str, scales))}, got {scale!r}")
    if file and name in WITHOUT_WEIGHTS:
        raise ValueError(f"{name} has no weights to load: leave out {file}")
    if pretrained is False or name in WITHOUT_WEIGHTS:
        network = _built(name, scale, config)
        return network.eval() if name in WITHOUT_WEIGHTS else network
    if file is None:
        file = _weights_file(name, scale, pretrained == "published")
        about = describe(file)
        _compare(about, {"model": name, "scale": scale} | config, file)
    return _filled(name, scale, about.get("config", {}) | config, file)


def _built(name: str, scale: int, config: Mapping[str, Any]) -> nn.Module:
    builder, _ = _builder(name)
    accepted = [p for p in inspect.signature(builder).parameters if p != "scale"]
    unknown = sorted(set(config) - set(accepted))
    if unknown:
        possible = ", ".join(accepted) or "none"
        raise ValueError(f"{name} takes no keyword {', '.join(map(repr, unknown))}; accepted: {possible}")
    return builder(scale=int(scale), **config)


def _compare(about: Mapping[str, Any], asked: Mapping[str, Any], file: Path | None) -> None:
    """ValueError unless what a weights file says of itself agrees with what is asked for, where both speak."""
    options = about.get("config", {})
    said = {k: v for k, v in about.items() if k != "config"} | options
    # None asks for nothing; tuples come back from a file as lists
    other = {k: v for k, v in asked.items() if v is not None and k in said and _plain(v) != said[k]}
    if file and other:
        size = f" ({', '.join(f'{k}={v}' for k, v in options.items())})" if options else ""
        of = f"x{about['scale']} weights" if "scale" in about else "weights"
        got = ", ".join(f"{k}={v}" for k, v in other.items())
        raise ValueError(f"{file.name}: these are {of} of {about.get('model', 'a network')}{size}, asked for was {got}")


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def _filled(name: str, scale: int, config: dict[str, Any], file: Path) -> nn.Module:
    given = read_state_dict(file)
    if not all(abs(number) <= LARGEST_OPTION for number in _numbers(config)):
        raise ValueError(f"{file.name}: options of a network are at most {LARGEST_OPTION}, got {shown(str(config))}")
    try:
        with _at_most(4 * sum(t.numel() for t in given.values()) + 1_000_000, file):
            network = _built(name, scale, config)
        fill(network, given, file.name)
    except Misfit as error:
        fits = " or ".join(f"x{other}" for other in _builder(name)[1] if _fits(name, other, config, given))
        raise Misfit(f"{error}; these look like {fits} weights" if fits else str(error)) from None
    except (ArithmeticError, LookupError, TypeError) as error:
        raise ValueError(f"{name} cannot be built with {shown(str(config))}: {error}") from error
    note_weights(file)
    return network.eval()


def _fits(name: str, scale: int, config: Mapping[str, Any], given: Mapping[str, Tensor]) -> bool:
    with torch.random.fork_rng(devices=[]), suppress(ValueError), _at_most(sum(t.numel() for t in given.values()) * 4):
        return bool(fitting(_built(name, scale, config).state_dict(), given, name))
    return False


@contextmanager
def _at_most(elements: int, file: Path | None = None) -> Iterator[None]:
    """A network that is built in here has no more weights than so many: its size may be what a file says."""
    left, thread = elements, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == thread:
            left -= parameter.numel()
            if left < 0:
                raise Misfit(f"{file.name if file else 'the file'} has far fewer weights than the network it names")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _weights_file(name: str, scale: int, published: bool) -> Path:
    if published:
        if (name, scale) not in PUBLISHED:
            have = ", ".join(f"{m} x{s}" for m, s in PUBLISHED)
            raise ValueError(f"no published weights for {name} x{scale}; there are: {have}")
        return data.weights_path(PUBLISHED[name, scale])
    path = WEIGHTS_DIR / f"{name}_x{scale}.safetensors"
    if not path.exists():
        have = ", ".join(sorted(p.stem for p in WEIGHTS_DIR.glob("*.safetensors"))) or "none yet"
        raise ValueError(f"no weights trained here for {name} x{scale} (there are: {have}); try 'published'")
    return path


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
