"""The ``nsr`` command. Every function here parses, calls the library and prints; nothing is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from nsrlib.runs import grids

_GROUPS = {
    "The papers": ("reproduce", "sweep", "report", "scoreboard", "verify", "study", "new-paper"),
    "Pictures": ("upscale", "evaluate", "train"),
    "What there is": ("models", "data", "bench"),
}


class _Grouped(TyperGroup):
    """Lists the commands by what they are for, each with its whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(200)) for name in names])


app = typer.Typer(
    cls=_Grouped,
    help="""Five image-restoration papers, checked cell by cell.

    \b
    nsr reproduce bsrn                     run a paper's notebook, write a report
    nsr upscale photo.jpg --model bsrn     a picture of any size, four times as large
    nsr evaluate published --model bsrn    PSNR and SSIM on Set5
    nsr COMMAND --help                     everything about one command
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets and published weights.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Scale = Annotated[int, typer.Option("--scale", "-s", help="Upscaling factor.")]
TaskScale = Annotated[
    int | None, typer.Option("--scale", "-s", help="Upscaling factor; default: 4, or 1 with --noise or --jpeg.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


def main() -> None:
    """Run the command; a problem the user can solve becomes one line and exit status 1."""
    try:
        app()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:  # FloatingPointError: a loss is not finite
        _stop(_one_line(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch's allocators raise RuntimeError: "out of memory" on a GPU, "can't allocate memory" on the CPU
        said = ("out of memory", "allocate memory")
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in said):
            raise
        _stop("not enough memory; try a smaller --tile")
    except KeyboardInterrupt:
        _stop("interrupted", 130)


def _stop(message: str, status: int = 1) -> NoReturn:
    typer.secho(f"nsr: {message}", fg="red", err=True)
    sys.exit(status)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _level(text: str | None, option: str, kind: type) -> Any:
    """``25`` -> 25, ``0,55`` -> (0, 55), None -> None."""
    try:
        numbers = [kind(part) for part in text.split(",")] if text is not None else [None]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"{option} takes a number or a range such as 10,40, got {text!r}")
    return tuple(numbers) if len(numbers) == 2 else numbers[0]


def _assignments(pairs: list[str] | None, option: str = "-p") -> dict[str, Any]:
    """``["scale=4", "sets='set5'"]`` -> values; what is no Python literal is a string."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option} takes name=value, got {pair!r}")
        values[name] = grids.literal(text)
    return values


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


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
    from nsrlib.files import ROOT

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
            typer.echo(f"stored {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    raise typer.Exit(0 if run.ok else 1)


@app.command()
def sweep(
    paper: Annotated[str, typer.Argument(help="Which notebook.")],
    grid: Annotated[
        list[str] | None, typer.Option("-g", help="name=v1,v2,..., a parameter and its values; repeatable.")
    ] = None,
    grid_file: Annotated[Path | None, typer.Option("--grid", help="Points in a .json, .yaml or .csv file.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="name=value, the same for all runs.")] = None,
    profile: Annotated[str, typer.Option(help="quick, cpu, gpu or paper.")] = "quick",
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/sweeps/PAPER-PROFILE.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Runs at once; default: one per core.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask scheduler, tcp://host:8786, instead of this machine's cores.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one cell may take.")] = None,
) -> None:
    """Run a notebook over a grid of its parameters.

    \b
    nsr sweep bsrn -g scales=2,3,4 -g max_images=1,5     six runs
    nsr sweep bsrn -g 'scales="2,3",4'                   quotes keep a comma,
    nsr sweep bsrn -g 'scales=["2,3", "4"]'              and so does a list
    nsr sweep bsrn -g repeats=3,9 --grid points.csv      all points with both
    nsr sweep bsrn -g scales=2,4 --scheduler tcp://host:8786

    Values are Python literals or else words. A grid file, .json, .yaml or .csv, holds {name: [values]} for all
    combinations or a list of {name: value} for chosen ones; a .csv has the names in its first line.

    Finished runs are not repeated: after Ctrl-C or a crash the same command goes on, and a larger grid adds to the
    folder. A run that fails is tried once more, then reported. At the end there are sweep.csv, figures over the
    parameters and a report, index.html.

    Several machines: start a Dask scheduler and workers that see this folder (dask scheduler, dask worker; on SLURM
    or PBS with dask-jobqueue) and give its address.
    """
    from nsrlib.runs import sweeps

    try:
        done = sweeps.sweep(
            paper,
            grids.parse_grid(grid or []),
            points=grid_file,
            parameters=_assignments(parameter),
            profile=profile,
            out=out,
            workers=workers,
            scheduler=scheduler,
            timeout=timeout,
        )
    except sweeps.Interrupted as stop:
        typer.echo(sweeps.summary(stop.run))
        raise typer.Exit(130) from None
    typer.echo(sweeps.summary(done))
    raise typer.Exit(0 if done.ok else 1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run or of a sweep.")]) -> None:
    """Build the report of a run or a sweep again."""
    from nsrlib import runs
    from nsrlib.runs import sweeps

    typer.echo((sweeps if (run / "sweep.json").exists() else runs).report(run))


@app.command()
def scoreboard(
    everything: Annotated[bool, typer.Option("--all", help="Every table of every paper.")] = False,
    markdown: Annotated[bool, typer.Option(help="As a Markdown table.")] = False,
    write: Annotated[bool, typer.Option(help="Bring the README up to date.")] = False,
    paper: Annotated[str | None, typer.Option(help="Only this paper.")] = None,
) -> None:
    """What is reproduced, a line a paper, from the stored results."""
    from nsrlib import claims, papers
    from nsrlib.runs import readme

    if write:
        return typer.echo("README.md was up to date" if readme.update_readme() else "README.md updated")
    chosen = [papers.get(paper).name] if paper else [name for name in papers.every() if name in claims.known()]
    board = claims.scoreboard(chosen)
    if everything:
        return typer.echo(readme.tables_markdown(board) if markdown else readme.tables(board).to_string())
    if markdown:
        return typer.echo(readme.scoreboard_markdown(chosen))
    counts = claims.count(board)
    judged = claims.count_claims(claims.stored_claims(chosen))
    typer.echo(f"{claims.sentence(counts)}\n\n{claims.lines(counts, judged).to_string(max_colwidth=None)}")


@app.command()
def evaluate(
    weights: Annotated[str, typer.Argument(help="A weights file, 'published', or 'trained' (small, from here).")],
    model: Annotated[str, typer.Option(help="See 'nsr models'.")],
    on: Annotated[str, typer.Option(help="Data sets or folders, separated by commas.")] = "set5",
    scale: TaskScale = None,
    lr: Annotated[str, typer.Option(help="How LR is made: paper, repeat, mirror or files.")] = "paper",
    noise: Annotated[float | None, typer.Option(help="Restore: remove Gaussian noise of this sigma, 0..255.")] = None,
    jpeg: Annotated[int | None, typer.Option(help="Restore: remove the artefacts of this JPEG quality.")] = None,
    crop: Annotated[int | None, typer.Option(help="Border pixels left out; default: the scale, 0 to restore.")] = None,
    space: Annotated[str | None, typer.Option(help="y, selfexsr, rgb or gray; default: y, gray to restore.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="The whole protocol, as tables have it: v1:y,crop=4; or: selfexsr,crop=2.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    device: Device = "auto",
    images: Annotated[bool, typer.Option(help="A line for each image, not only the means.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write all rows here.")] = None,
    store: Annotated[bool, typer.Option(help="Keep the numbers in data/results/cells.csv.")] = False,
) -> None:
    """PSNR and SSIM of a network on data sets, upscaling or restoring."""
    import pandas as pd

    from nsrlib import evaluation, metrics, models
    from nsrlib.claims import cells
    from nsrlib.files import whole_file
    from nsrlib.images import Degradation

    if space is not None and space not in metrics.PRESETS:
        raise ValueError(f"--space must be one of {', '.join(metrics.PRESETS)}, got {space!r}")
    if protocol is not None and (space is not None or crop is not None):
        raise ValueError("--protocol says all of it; leave out --space and --crop")
    if csv and not csv.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {csv.parent}")
    names = _names(on)
    if store:
        cells.check_keepable(model, weights, names, limit)
    asked = None if protocol is None else metrics.Protocol.parse(protocol)
    task = None if noise is None and jpeg is None else Degradation(noise, jpeg)
    network = models.create_model(
        model, 1 if scale is None and task else scale, pretrained=weights == "trained" or weights
    )
    if task:
        space = space or ("gray" if evaluation.takes_gray(network) else "rgb")
    scale = int(network.scale)  # type: ignore[arg-type]
    chosen = asked or metrics.PRESETS[space or "y"]((0 if task else scale) if crop is None else crop)
    typer.echo(f"{model}{f', {task}' if task else f' x{scale}'}; {chosen} ({chosen.signature})")
    tables = []
    for name in names:
        table = evaluation.evaluate(
            network,
            name,
            scale,
            chosen,
            device,
            lr=lr,
            noise=noise,
            jpeg=jpeg,
            limit=limit,
            progress=sys.stderr.isatty(),
        )
        if images:
            shown = table.drop(columns="pixels_sha256")
            typer.echo(shown.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
        means = table[["psnr", "ssim", "seconds"]].mean()
        origin = table.attrs["origin"]
        typer.echo(f"{name}: {means.psnr:.3f} dB, SSIM {means.ssim:.5f}, {means.seconds:.3f} s/image ({origin})")
        tables.append(table.assign(dataset=name, **{k: table.attrs[k] for k in ("protocol", "setting")}))
    if csv and tables:
        with whole_file(csv) as draft:
            pd.concat(tables).to_csv(draft, index=False)
    if store:
        cells.keep(model, weights, tables)


@app.command()
def verify(
    model: Annotated[str | None, typer.Option(help="Only the cells of this network.")] = None,
    on: Annotated[str, typer.Option(help="Only those of these data sets, separated by commas.")] = "",
    device: Device = "auto",
    store: Annotated[bool, typer.Option(help="Keep what agrees, as of today's code and machine.")] = False,
) -> None:
    """Measure again the stored numbers of networks with known weights. Exit status 1 if one differs."""
    from nsrlib.claims import cells

    checks = []
    for check in cells.verify(model, _names(on), device):
        typer.echo(check)
        checks.append(check)
    typer.echo(cells.summary(checks))
    if store:
        cells.keep_checked(checks)
    raise typer.Exit(1 if any(check.verdict == "differs" for check in checks) else 0)


@app.command()
def upscale(
    source: Annotated[Path, typer.Argument(help="Any picture: gray, RGBA, 16-bit, large.")],
    target: Annotated[Path | None, typer.Argument(help="Default: beside the source, as NAME_x4.png.")] = None,
    model: Annotated[str, typer.Option(help="See 'nsr models'.")] = "bsrn",
    scale: Scale = 4,
    weights: Annotated[str, typer.Option(help="'published', 'trained' (small, from here) or a file.")] = "published",
    tile: Annotated[int, typer.Option(help="Side of the tiles in input pixels; 0: choose by size.")] = 0,
    device: Device = "auto",
) -> None:
    """Upscale a picture of any size, in tiles."""
    from nsrlib import evaluation, models

    if not source.is_file():
        raise FileNotFoundError(f"no such image: {source}")
    target = target or evaluation.default_output(source, scale)
    network = models.create_model(model, scale, pretrained=weights == "trained" or weights)
    progress = sys.stderr.isatty()
    picture = evaluation.upscale_file(network, source, target, tile=tile or "auto", device=device, progress=progress)
    for note in picture.notes:
        typer.echo(f"note: {note}")
    h, w = picture.rgb.shape[:2]
    typer.echo(f"{source.name} {w}x{h} -> {target} {w * scale}x{h * scale}")


@app.command()
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
    config: Annotated[list[str] | None, typer.Option("-c", help="name=value, an option of the network.")] = None,
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
        config=_assignments(config, "-c"),
        data=data or (),
        noise=_level(noise, "--noise", float),
        jpeg=_level(jpeg, "--jpeg", int),
        profile=profile,
        changes=_assignments(recipe, "-r"),
        validate=validate or None,
        skip_broken=skip_broken,
    )
    folder = out or Path("runs") / f"train-{model}-x{scale}{task}"
    _, line = papers.train(job, folder, resume=not fresh, device=device, say=typer.echo)
    if line:
        typer.echo(line)


@app.command()
def study(
    paper: Annotated[str, typer.Argument(help="Which paper: bsrn, ...")],
    names: Annotated[list[str] | None, typer.Argument(help="Which studies; default: all.")] = None,
    profile: Annotated[str, typer.Option(help="quick, cpu, gpu or paper.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default: runs/studies/PAPER-PROFILE.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Runs at once, a thread each.")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take, from a few steps of each.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Train what fits into 2h, 90min, ...; most valuable first.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of every variant; default: the study's own.")] = None,
    store: Annotated[bool, typer.Option(help="Keep rows in data/results as runs finish; go on from those.")] = False,
    worktree: Annotated[bool, typer.Option("--worktree", help="Run the code of the last commit.")] = False,
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Train on these sets instead, repeatable.")] = None,
    on: Annotated[str, typer.Option(help="Score on these sets instead, separated by commas.")] = "",
) -> None:
    """Train a paper's studies; finished runs are not repeated.

    \b
    nsr study bsrn --plan                                      hours that it would take
    nsr study bsrn decompositions --budget 2h --jobs 2         what fits into two hours
    nsr study bsrn --store --worktree                          rows go to data/results, with the commit of their code
    """
    from nsrlib import papers, statistics
    from nsrlib.papers import evidence

    if store and (data or on or seeds):
        raise ValueError("--store keeps studies as they are; leave out --data, --on and --seeds")
    limit = None if budget is None else evidence.hours(budget)
    folder = (out or Path("runs") / "studies" / f"{paper}-{profile}").absolute()
    chosen = evidence.Evidence(
        papers.get(paper), profile, folder, names or (), seeds, data, [s.strip() for s in on.split(",")] if on else None
    )
    if plan:
        table = chosen.plan(jobs, chosen.costs(typer.echo))
        typer.echo(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
        typer.echo(f"all that is missing: about {table['hours missing'].sum():.1f} hours with --jobs {jobs}")
        if len(power := chosen.power()):
            typer.echo("\nwhat claims need for 80 % power, by the noise of the stored runs:")
            typer.echo(power.drop(columns="hours").to_string(index=False, float_format=lambda v: f"{v:.3g}"))
        return
    target = (into or chosen.paper.root) if store else None
    if worktree:
        rest = [a for a in sys.argv[1:] if a != "--worktree"]
        rest += ["--out", str(folder)] + (["--into", str(target)] if target else [])
        raise typer.Exit(evidence.in_worktree([sys.executable, "-P", "-m", "nsrlib.cli", *rest], folder))
    for name, result in chosen.run(jobs=jobs, budget=limit, into=target, say=typer.echo).items():
        typer.echo(f"{name}: {result.describe()}")
        for metric in (c for c in result.table.columns if c.startswith("psnr")):
            shown = statistics.summary(result.scores(metric=metric)).to_string(float_format=lambda v: f"{v:.3f}")
            typer.echo(f"{metric}\n{shown}")


@app.command("new-paper")
def new_paper(
    name: Annotated[str, typer.Argument(help="Of the paper, a word: espcn.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default: nsrlib-NAME.")] = None,
) -> None:
    """Lay out a package that adds a paper: a network, numbers, a study, a notebook."""
    from nsrlib.papers import new

    folder = new.new_paper(name, out)
    typer.echo(f"{folder}: install it with 'pip install -e {folder}', then 'nsr reproduce {name}'; see its README.md")


@app.command()
def models() -> None:
    """Networks, their parameters and published weights."""
    from nsrlib import models as zoo

    for name in zoo.list_models():
        network = zoo.create_model(name)
        size = f"{sum(p.numel() for p in network.parameters()):>9,} parameters (x{network.scale})"
        scales = ", ".join(f"x{s}" for m, s in zoo.PUBLISHED if m == name)
        typer.echo(f"{name:12s} {size}  published weights: {scales or '-'}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="models, kernels, or all, with tests and trainings")] = "models",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: PyTorch's.")] = None,
    repeats: Annotated[int, typer.Option(help="models: best of so many.")] = 7,
    paper: Annotated[str | None, typer.Option(help="models: those of one paper; default: of all.")] = None,
    device: Device = "auto",
    audit: Annotated[bool, typer.Option("--audit", help="kernels: compile and read them; needs no GPU.")] = False,
    budget: Annotated[float, typer.Option(help="Minutes; what no longer fits is left out.")] = 25,
    seconds: Annotated[float, typer.Option(help="kernels: of measuring for each way to compute.")] = 0.5,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="kernels: torch.compile, too.")] = True,
    once: Annotated[bool, typer.Option("--once", help="kernels: launch ours once a case, time nothing.")] = False,
    only: Annotated[str, typer.Option(help="kernels: one operator, or part of a case's name.")] = "",
    resume: Annotated[bool, typer.Option(help="kernels: keep what --out holds of the same versions.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write here (tables: .csv or .json; times: a folder, too).")] = None,
) -> None:
    """Time the networks, or the operators and their rivals, on this machine."""
    if what not in ("models", "kernels", "all"):
        raise ValueError(f"nsr bench takes 'models', 'kernels' or 'all', got {what!r}")
    if what == "all":
        from nsrlib.bench import everything

        if out is None:
            raise ValueError("nsr bench all needs --out, a folder")
        passed = everything.run([sys.executable, "-m", "nsrlib.cli"], device, budget, out, paper or "bsrn", typer.echo)
        raise typer.Exit(0 if passed else 1)
    if out and not out.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {out.parent}")
    if out and (what == "models" or audit) and out.suffix not in (".csv", ".json"):
        raise ValueError(f"--out must end in .csv or .json, got {out.name}")
    if audit and what == "models":
        raise ValueError("--audit is for nsr bench kernels")
    if audit:
        return _bench_audit(only, out)
    measuring: dict[str, Any] = {"device": device, "budget": budget, "threads": threads}
    if what == "models":
        return _bench_models(paper, out, repeats=repeats, **measuring)
    _bench_kernels(once, only=only, resume=resume, out=out, seconds=seconds, compiled=compiled, **measuring)


def _bench_models(paper: str | None, out: Path | None, *, device: str, repeats: int, **options: Any) -> None:
    from nsrlib import bench, papers

    table = bench.latency(papers.networks_of(paper, device), device=device, repeats=repeats, **options)
    typer.echo(f"seconds of one pass, best of {repeats}, {table.attrs['device']}, {table.attrs['threads']} threads")
    wide = table.pivot_table(index="model", columns="input", values="seconds", sort=False)
    typer.echo(wide.to_string(float_format=lambda v: f"{v:.4f}"))
    if out:
        bench.store(table, out)


def _bench_audit(only: str, out: Path | None) -> None:
    from nsrlib import bench

    names = [name for name in bench.audit.entries() if only in name]
    if not names:
        raise ValueError(f"--only {only!r} is in no name; there are: {', '.join(bench.audit.entries())}")
    table = bench.audit.audit_all(names, progress=sys.stderr.isatty())
    typer.echo(f"Triton {table.attrs['triton']}; registers a thread, stack and shared memory in bytes")
    shown = table.drop(columns=["kernel", "loop_barriers", "loop_spills"])
    typer.echo(shown.to_string(index=False, float_format=lambda v: f"{v:.0%}", max_colwidth=48))
    if out:
        bench.store(table, out)


def _bench_kernels(once: bool, *, threads: int | None, **options: Any) -> None:
    from nsrlib import bench

    command = " ".join(["nsr bench kernels", *([f"--threads {threads}"] if threads else [])])
    table = bench.time_kernels(once=once, threads=threads, say=typer.echo, command=command, **options)
    if once:
        return
    columns = ["way", "median_ms", "launch_ms", "graph_ms", "speedup", "percent_of_limit", "max_error", "skipped"]
    for case, rows in table.groupby("case", sort=False):
        shown = rows[columns].dropna(axis=1, how="all")
        typer.echo(f"\n{case}\n{shown.to_string(index=False, na_rep='', float_format=lambda v: f'{v:.3g}')}")
    typer.echo(f"\n{bench.verdicts(table).to_string(index=False, na_rep='', float_format=lambda v: f'{v:.3g}')}")


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
    """Compare every file that is here with its sha256; name those without one. Exit status 1 if one is damaged."""
    from nsrlib import data

    table = data.verify(name)
    damaged = table[table["status"] == "damaged"]
    if len(named := table[table["status"].isin(["damaged", "unverified"])]):
        typer.echo(named.to_string(index=False))
    counts = table["status"].value_counts()
    typer.echo(", ".join(f"{n} {status}" for status, n in counts.items()) or "nothing here to verify")
    raise typer.Exit(1 if len(damaged) else 0)


if __name__ == "__main__":
    main()
