"""Commands about the papers: run, sweep, report, study, verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nsrlib.cli import options
from nsrlib.cli.options import Device, assignments
from nsrlib.runs import grids

_PROGRAM = __name__.rpartition(".")[0]  # what "python -m" runs


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
            parameters=assignments(parameter),
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
            parameters=assignments(parameter),
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


def report(run: Annotated[Path, typer.Argument(help="The folder of a run or of a sweep.")]) -> None:
    """Build the report of a run or a sweep again."""
    from nsrlib import runs
    from nsrlib.runs import sweeps

    typer.echo((sweeps if (run / "sweep.json").exists() else runs).report(run))


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
    known = [name for name in papers.every() if name in claims.known()]
    chosen = known if paper is None else [papers.get(paper).name]
    board = claims.scoreboard(chosen)
    if everything:
        return typer.echo(readme.tables_markdown(board) if markdown else readme.tables(board).to_string())
    if markdown:
        return typer.echo(readme.scoreboard_markdown(chosen))
    counts = claims.count(board)
    judged = claims.count_claims(claims.stored_claims(chosen))
    typer.echo(f"{claims.sentence(counts)}\n\n{claims.lines(counts, judged).to_string(max_colwidth=None)}")


def verify(
    model: Annotated[str | None, typer.Option(help="Only the cells of this network.")] = None,
    on: Annotated[str | None, typer.Option(help="Only those of these data sets, separated by commas.")] = None,
    device: Device = "auto",
    store: Annotated[bool, typer.Option(help="Keep what agrees, as of today's code and machine.")] = False,
) -> None:
    """Measure again the stored numbers of networks with known weights. Exit status 1 if one differs."""
    from nsrlib.claims import cells

    checks = []
    for check in cells.verify(model, () if on is None else options.names(on), device):
        typer.echo(check)
        checks.append(check)
    typer.echo(cells.summary(checks))
    if store:
        cells.keep_checked(checks)
    raise typer.Exit(1 if any(check.verdict == "differs" for check in checks) else 0)


def study(
    paper: Annotated[str, typer.Argument(help="Which paper: bsrn, ...")],
    names: Annotated[list[str] | None, typer.Argument(help="Which studies; default: all.")] = None,
    profile: Annotated[str, typer.Option(help="quick, cpu, gpu or paper.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default: runs/studies/PAPER-PROFILE.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Runs at once, a thread each.")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take, from a few steps of each.")] = False,
    budget: Annotated[str | None, typer.Option(help="Train what fits into 2h, 90min, ...; short runs first.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of every variant; default: the study's own.")] = None,
    store: Annotated[bool, typer.Option(help="Keep rows in data/results as runs finish; go on from those.")] = False,
    worktree: Annotated[bool, typer.Option("--worktree", help="Run the code of the last commit.")] = False,
    into: Annotated[Path | None, typer.Option(hidden=True)] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="Train on these sets instead, repeatable.")] = None,
    on: Annotated[str | None, typer.Option(help="Score on these sets instead, separated by commas.")] = None,
) -> None:
    """Train a paper's studies; finished runs are not repeated.

    \b
    nsr study bsrn --plan                                      hours that it would take
    nsr study bsrn decompositions --budget 2h --jobs 2         what fits into two hours
    nsr study bsrn --store --worktree                          rows go to data/results, with the commit of their code
    """
    from nsrlib import papers, statistics
    from nsrlib.papers import evidence

    if store and (data or on is not None or seeds is not None):
        raise ValueError("--store keeps studies as they are; leave out --data, --on and --seeds")
    limit = None if budget is None else evidence.hours(budget)
    train, test = options.listed(data, "--data") or None, None if on is None else options.names(on)
    folder = (out or Path("runs") / "studies" / f"{paper}-{profile}").absolute()
    chosen = evidence.Evidence(papers.get(paper), profile, folder, names or (), seeds, train, test)
    if plan:
        table = chosen.plan(jobs, chosen.costs(progress=None))
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
        raise typer.Exit(evidence.in_worktree([sys.executable, "-P", "-m", _PROGRAM, *rest], folder))
    for name, result in chosen.run(jobs=jobs, budget=limit, into=target, say=typer.echo).items():
        typer.echo(f"{name}: {result.describe()}")
        for metric in (c for c in result.table.columns if c.startswith("psnr")):
            shown = statistics.summary(result.scores(metric=metric)).to_string(float_format=lambda v: f"{v:.3f}")
            typer.echo(f"{metric}\n{shown}")


def new_paper(
    name: Annotated[str, typer.Argument(help="Of the paper, a word: espcn.")],
    out: Annotated[Path | None, typer.Option(help="Folder; default: nsrlib-NAME.")] = None,
) -> None:
    """Lay out a package that adds a paper: a network, numbers, a study, a notebook."""
    from nsrlib.papers import new

    folder = new.new_paper(name, out)
    typer.echo(f"{folder}: install it with 'pip install -e {folder}', then 'nsr reproduce {name}'; see its README.md")
