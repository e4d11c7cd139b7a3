"""The ``nsr`` command. Every function here parses, calls the library and prints; nothing is computed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Five image-restoration papers, checked cell by cell.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets and published weights.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Scale = Annotated[int, typer.Option("--scale", "-s", help="Upscaling factor.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def main() -> None:
    """Run the command; a problem the user can solve becomes one line and exit status 1."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        typer.secho(f"nsr: {_one_line(error)}", fg="red", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        # PyTorch's allocators raise RuntimeError: "out of memory" on a GPU, "can't allocate memory" on the CPU
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        typer.secho("nsr: not enough memory; try a smaller --tile", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("nsr: interrupted", fg="red", err=True)
        sys.exit(130)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _assignments(pairs: list[str] | None) -> dict[str, Any]:
    """``["scale=4", "sets='set5'"]`` -> values; what is no Python literal is a string."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"-p takes name=value, got {pair!r}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
            values[name] = {"true": True, "false": False}.get(text.lower(), text)
    return values


@app.command()
def reproduce(
    papers: Annotated[list[str] | None, typer.Argument(help="Which papers; default: all notebooks.")] = None,
    profile: Annotated[str, typer.Option(help="quick, cpu, gpu or paper.")] = "quick",
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, a notebook parameter.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<time>-<profile>.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Notebooks at once; default: one per core.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one cell may take.")] = None,
    resume: Annotated[bool, typer.Option(help="Keep the finished notebooks of --out.")] = False,
    store: Annotated[bool, typer.Option(help="Keep the measured numbers in data/results.")] = False,
) -> None:
    """Execute the notebooks and write a report: the main job."""
    from nsrlib import claims, runs

    if store and parameter:
        raise ValueError("--store keeps runs with the notebooks' own parameters; leave out -p")
    try:
        run = runs.reproduce(
            papers or None,
            profile=profile,
            parameters=_assignments(parameter),
            out=out,
            jobs=jobs,
            timeout=timeout,
            resume=resume,
        )
    except runs.Interrupted as stop:
        typer.echo(runs.summary(stop.run))
        raise typer.Exit(130) from None
    typer.echo(runs.summary(run))
    if store and run.ok:
        for path in claims.store(run.folder):
            typer.echo(f"stored {path.relative_to(claims.REPOSITORY)}")
    raise typer.Exit(0 if run.ok else 1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Build the report of a run folder again."""
    from nsrlib import runs

    typer.echo(runs.report(run))


@app.command()
def scoreboard(
    markdown: Annotated[bool, typer.Option(help="As a Markdown table.")] = False,
    write: Annotated[bool, typer.Option(help="Bring the README up to date.")] = False,
    paper: Annotated[str | None, typer.Option(help="Only this paper.")] = None,
) -> None:
    """What is reproduced, from the stored results."""
    from nsrlib import claims

    if write:
        typer.echo("README.md was up to date" if claims.update_readme() else "README.md updated")
        return
    if paper:
        claims.published(paper)  # raises for a paper without numbers, which the scoreboard would leave out
    board = claims.scoreboard([paper] if paper else claims.PAPERS)
    if markdown:
        typer.echo(claims.scoreboard_markdown(board))
        return
    counts = board.groupby(["paper", "table", "verdict"]).size().unstack(fill_value=0)
    typer.echo(counts.to_string())


@app.command()
def evaluate(
    weights: Annotated[str, typer.Argument(help="A weights file, or 'published'.")],
    model: Annotated[str, typer.Option(help="See 'nsr models'.")],
    on: Annotated[str, typer.Option(help="Data sets or folders, separated by commas.")] = "set5",
    scale: Scale = 4,
    lr: Annotated[str, typer.Option(help="How LR is made: paper, repeat, mirror or files.")] = "paper",
    crop: Annotated[int | None, typer.Option(help="Border pixels left out; default: the scale.")] = None,
    space: Annotated[str, typer.Option(help="y, selfexsr, rgb or gray.")] = "y",
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    device: Device = "auto",
    images: Annotated[bool, typer.Option(help="A line for each image, not only the means.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write all rows here.")] = None,
) -> None:
    """PSNR and SSIM of a network on data sets."""
    import pandas as pd

    from nsrlib import evaluation, metrics, models

    if space not in metrics.PRESETS:
        raise ValueError(f"--space must be one of {', '.join(metrics.PRESETS)}, got {space!r}")
    if csv and not csv.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {csv.parent}")
    network = models.create_model(model, scale, pretrained=weights)
    protocol = metrics.PRESETS[space](scale if crop is None else crop)
    typer.echo(f"{model} x{scale}; {protocol}")
    tables = []
    for name in filter(None, (part.strip() for part in on.split(","))):
        table = evaluation.evaluate(
            network, name, scale, protocol, device, lr=lr, limit=limit, progress=sys.stderr.isatty()
        )
        if images:
            typer.echo(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
        means = table[["psnr", "ssim", "seconds"]].mean()
        origin = table.attrs["origin"]
        typer.echo(f"{name}: {means.psnr:.3f} dB, SSIM {means.ssim:.5f}, {means.seconds:.3f} s/image ({origin})")
        tables.append(table.assign(dataset=name))
    if csv and tables:
        pd.concat(tables).to_csv(csv, index=False)


@app.command()
def upscale(
    source: Annotated[Path, typer.Argument(help="Any picture: gray, RGBA, 16-bit, large.")],
    target: Annotated[Path | None, typer.Argument(help="Default: beside the source, as NAME_x4.png.")] = None,
    model: Annotated[str, typer.Option(help="See 'nsr models'.")] = "bsrn",
    scale: Scale = 4,
    weights: Annotated[str, typer.Option(help="'published' or a file.")] = "published",
    tile: Annotated[int, typer.Option(help="Side of the tiles in input pixels; 0: choose by size.")] = 0,
    device: Device = "auto",
) -> None:
    """Upscale a picture of any size, in tiles."""
    from nsrlib import evaluation, models

    if not source.is_file():
        raise FileNotFoundError(f"no such image: {source}")
    target = target or evaluation.default_output(source, scale)
    network = models.create_model(model, scale, pretrained=weights)
    progress = sys.stderr.isatty()
    picture = evaluation.upscale_file(network, source, target, tile=tile or "auto", device=device, progress=progress)
    for note in picture.notes:
        typer.echo(f"note: {note}")
    h, w = picture.rgb.shape[:2]
    typer.echo(f"{source.name} {w}x{h} -> {target} {w * scale}x{h * scale}")


@app.command()
def models() -> None:
    """Networks, their parameters and published weights."""
    from nsrlib import models as zoo

    for name in zoo.list_models():
        network = zoo.create_model(name)
        params = sum(p.numel() for p in network.parameters())
        scales = [f"x{s}" for m, s in zoo.PUBLISHED if m == name]
        typer.echo(f"{name:12s} {params:>9,} parameters (x4)  published weights: {', '.join(scales) or '-'}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="models")] = "models",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: PyTorch's.")] = None,
    repeats: Annotated[int, typer.Option(help="Best of so many.")] = 7,
    device: Device = "auto",
) -> None:
    """Time the networks on this machine."""
    from nsrlib import evaluation

    if what != "models":
        raise ValueError(f"nsr bench takes 'models', got {what!r}")
    table = evaluation.latency(
        evaluation.contenders(evaluation.pick_device(device)),
        [(128, 128), (180, 320)],
        device=device,
        repeats=repeats,
        threads=threads,
    )
    typer.echo(f"seconds of one pass, best of {repeats}, {table.attrs['device']}, {table.attrs['threads']} threads")
    wide = table.pivot_table(index="model", columns="input", values="seconds", sort=False)
    typer.echo(wide.to_string(float_format=lambda v: f"{v:.4f}"))


@data_app.command("list")
def data_list(terms: Annotated[bool, typer.Option(help="The licence of each.")] = False) -> None:
    """What there is, where it lies and under which terms."""
    from nsrlib import data

    table = data.list_sets()
    typer.echo(table.drop(columns=[] if terms else ["licence"]).to_string(index=False))


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, or 'weights'.")],
    scale: Annotated[int | None, typer.Option("--scale", "-s", help="Only this scale.")] = None,
) -> None:
    """Download into the cache, verified; resumes what was interrupted."""
    from nsrlib import data

    for name in names:
        typer.echo(f"{name}: {len(data.fetch_set(name, scale))} files are in place")


@data_app.command("verify")
def data_verify(name: Annotated[str | None, typer.Argument(help="One set; default: all.")] = None) -> None:
    """Compare every file that is here with its sha256. Exit status 1 if one is damaged."""
    from nsrlib import data

    table = data.verify(name)
    damaged = table[table["status"] == "damaged"]
    if len(damaged):
        typer.echo(damaged.to_string(index=False))
    counts = table["status"].value_counts()
    typer.echo(", ".join(f"{n} {status}" for status, n in counts.items()) or "nothing here to verify")
    raise typer.Exit(1 if len(damaged) else 0)


if __name__ == "__main__":
    main()
