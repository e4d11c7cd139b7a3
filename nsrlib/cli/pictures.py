"""Commands on pictures: upscale, evaluate, train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nsrlib.cli import options
from nsrlib.cli.options import Config, Device, TaskScale, assignments, level

if TYPE_CHECKING:
    from torch import nn


def _options(config: list[str] | None) -> dict[str, Any]:
    """Of a network, from ``-c``."""
    values = assignments(config, "-c")
    for name in ("name", "model", "scale", "pretrained"):
        if name in values:
            raise ValueError(f"-c takes options of the network; {name} has a place of its own, see --help")
    return values


def _network(
    weights: str,
    model: str | None,
    scale: int | None,
    config: list[str] | None,
    default_scale: int | None = None,
    default: str = "",
) -> tuple[str, nn.Module]:
    """A network with weights, and its name: as the options say, else the file of weights, else by default."""
    from nsrlib import models

    about = {} if weights in ("published", "trained") else models.describe(weights)
    if scale is None and "scale" not in about:
        scale = default_scale
    name = model or str(about.get("model", default))
    return name, models.create_model(
        name or None, scale, pretrained=weights == "trained" or weights, **_options(config)
    )


def upscale(
    sources: Annotated[list[Path], typer.Argument(help="Pictures (gray, RGBA, 16-bit, large) and folders of them.")],
    model: Annotated[
        str | None, typer.Option(help="See 'nsr models'; default: the network of the weights file, else bsrn.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="Upscaling factor; default: that of the weights file, else 4.")
    ] = None,
    weights: Annotated[str, typer.Option(help="'published', 'trained' (small, from here) or a file.")] = "published",
    config: Config = None,
    out: Annotated[
        str | None, typer.Option(help="A folder, or a file. Default: beside the source, NAME_x4.png.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace results that are there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: leave out pictures whose result is there.")] = False,
    tile: Annotated[int, typer.Option(help="Side of the tiles in input pixels; 0: choose by size.")] = 0,
    device: Device = "auto",
) -> None:
    """Upscale pictures of any size, in tiles. Nothing that is there is replaced unless you say so.

    \b
    nsr upscale photo.jpg                       beside it, photo_x4.png
    nsr upscale photo.jpg large.png             into a file that is not there yet
    nsr upscale *.jpg scans --out large         pictures, and those of a folder, into a folder
    nsr upscale *.jpg scans --out large --resume    the same once more, after it was stopped

    Of two names the second is a result only if there is no such file: a pattern that matches two pictures harms none.
    A picture that cannot be read is told at the end, and the others are done; the exit status is 1.
    """
    from nsrlib.cli import upscaling

    found, place = upscaling.split(sources, out)
    _, network = _network(weights, model, scale, config, default="bsrn")
    jobs = upscaling.plan(found, place, int(network.scale), force, resume)  # type: ignore[arg-type]
    if upscaling.run(network, jobs, force=force, tile=tile or "auto", device=device):
        raise typer.Exit(1)


def evaluate(
    weights: Annotated[str, typer.Argument(help="A weights file, 'published', or 'trained' (small, from here).")],
    model: Annotated[
        str | None, typer.Option(help="See 'nsr models'; may be left out for a weights file that says it.")
    ] = None,
    on: Annotated[str, typer.Option(help="Data sets or folders, separated by commas.")] = "set5",
    scale: TaskScale = None,
    config: Config = None,
    lr: Annotated[
        str | None,
        typer.Option(help="How LR is made: paper, repeat, mirror, luma, luma_8bit or files; default: paper."),
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Restore: remove Gaussian noise of this sigma, 0..255.")] = None,
    jpeg: Annotated[int | None, typer.Option(help="Restore: remove the artefacts of this JPEG quality.")] = None,
    crop: Annotated[int | None, typer.Option(help="Border pixels left out; default: the scale, 0 to restore.")] = None,
    space: Annotated[
        str | None, typer.Option(help="y, selfexsr, vdsr, rgb or gray; default: y, gray to restore.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="The whole protocol, as tables have it: v1:y,crop=4; or: vdsr,crop=3.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    device: Device = "auto",
    images: Annotated[bool, typer.Option(help="A line for each image, not only the means.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write all rows here.")] = None,
    store: Annotated[bool, typer.Option(help="Keep the numbers in data/results/cells.csv.")] = False,
) -> None:
    """PSNR and SSIM of a network on data sets, upscaling or restoring."""
    import pandas as pd

    from nsrlib import data, evaluation, metrics
    from nsrlib.claims import cells
    from nsrlib.files import whole_file
    from nsrlib.images import Degradation

    if space is not None and space not in metrics.PRESETS:
        raise ValueError(f"--space must be one of {', '.join(metrics.PRESETS)}, got {space!r}")
    if protocol is not None and (space is not None or crop is not None):
        raise ValueError("--protocol says all of it; leave out --space and --crop")
    if csv and not csv.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {csv.parent}")
    names = options.names(on)
    if model is None and weights in ("published", "trained"):
        raise typer.BadParameter(f"{weights!r} weights are of which network? See 'nsr models'.", param_hint="--model")
    if store:
        cells.check_keepable(model or "", weights, names, limit)
    asked = None if protocol is None else metrics.Protocol.parse(protocol)
    task = None if noise is None and jpeg is None else Degradation(noise, jpeg)
    model, network = _network(weights, model, scale, config, 1 if task else None)
    if task:
        space = space or ("gray" if evaluation.takes_gray(network) else "rgb")
    scale = int(network.scale)  # type: ignore[arg-type]
    chosen = asked or metrics.PRESETS[space or "y"]((0 if task else scale) if crop is None else crop)
    gray = evaluation.takes_gray(network) if task else None
    how = lr or ("paper" if task else chosen.lr)
    what = f", {task}" if task else f" x{scale}" + (f", LR {lr!r}" if lr else "")
    typer.echo(f"{model}{what}; {chosen} ({chosen.signature})")
    sets = [data.load(name, scale, lr=how, gray=gray, limit=limit) for name in names]  # all, or none is measured
    tables = []
    for name in names:
        table = evaluation.evaluate(
            network,
            sets.pop(0),  # which is then free to go
            scale,
            chosen,
            device,
            noise=noise,
            jpeg=jpeg,
            progress=sys.stderr.isatty(),
        )
        if images:
            shown = table.drop(columns="pixels_sha256")
            typer.echo(shown.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
        means = table[["psnr", "ssim", "seconds"]].mean()
        origin = table.attrs["origin"]
        typer.echo(f"{name}: {means.psnr:.3f} dB, SSIM {means.ssim:.5f}, {means.seconds:.3f} s/image ({origin})")
        tables.append(table.assign(dataset=name, **{k: table.attrs[k] for k in ("protocol", "setting")}))
        if csv:  # after every set: what one of them cannot do costs no row of the others
            with whole_file(csv) as draft:
                pd.concat(tables).to_csv(draft, index=False)
        if store:
            cells.keep(model, weights, [table])


def train(
    model: Annotated[str, typer.Argument(help="See 'nsr models'.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Training sets or folders, repeatable. Default: t91, else embedded photographs."),
    ] = None,
    scale: TaskScale = None,
    noise: Annotated[str | None, typer.Option(help="Learn to remove noise of this sigma, or of a range: 0,55.")] = None,
    jpeg: Annotated[
        str | None, typer.Option(help="Learn to remove JPEG of this quality, or of a range: 10,40.")
    ] = None,
    config: Config = None,
    recipe: Annotated[list[str] | None, typer.Option("-r", help="name=value, a field of the recipe.")] = None,
    profile: Annotated[str, typer.Option(help="quick, cpu, gpu, or paper: the published recipe.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/train-MODEL-xSCALE (-noise25).")] = None,
    validate: Annotated[str, typer.Option(help="Set or folder whose PSNR is followed; '' for none.")] = "embedded_val",
    skip_broken: Annotated[bool, typer.Option(help="Leave out images that cannot be read or are too small.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start anew where a run was interrupted.")] = False,
    device: Device = "auto",
) -> None:
    """Train a network on your images. The same command goes on where it was interrupted.

    Several GPUs: torchrun --nproc-per-node 8 -m nsrlib.cli train ...
    """
    from nsrlib import papers

    scale = scale or (1 if noise or jpeg else 4)
    task = "".join(f"-{name}{level}" for name, level in (("noise", noise), ("jpeg", jpeg)) if level)
    job = papers.Job(
        model,
        scale,
        config=_options(config),
        data=options.listed(data, "--data"),
        noise=level(noise, "--noise", float),
        jpeg=level(jpeg, "--jpeg", int),
        profile=profile,
        changes=assignments(recipe, "-r"),
        validate=validate or None,
        skip_broken=skip_broken,
    )
    folder = out or Path("runs") / f"train-{model}-x{scale}{task}"
    _, line = papers.train(job, folder, resume=not fresh, device=device, say=typer.echo)
    if line:
        typer.echo(line)
