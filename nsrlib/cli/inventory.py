"""Commands about what there is: networks, data sets, timings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nsrlib.cli.options import Device

_PROGRAM = __name__.rpartition(".")[0]  # what "python -m" runs


def models() -> None:
    """Networks, their parameters and published weights."""
    from nsrlib import models as zoo

    for name in zoo.list_models():
        network = zoo.create_model(name)
        size = f"{sum(p.numel() for p in network.parameters()):>9,} parameters (x{network.scale})"
        scales = ", ".join(f"x{s}" for m, s in zoo.PUBLISHED if m == name)
        typer.echo(f"{name:12s} {size}  published weights: {scales or '-'}")


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
        passed = everything.run([sys.executable, "-m", _PROGRAM], device, budget, out, paper or "bsrn", typer.echo)
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


def data_list(terms: Annotated[bool, typer.Option(help="The licence of each.")] = False) -> None:
    """What there is, where it lies and under which terms."""
    from nsrlib import data

    table = data.list_sets()
    typer.echo(table.drop(columns="licence").to_string(index=False))
    for name, licence in zip(table["name"], table["licence"], strict=True) if terms else ():
        typer.echo(f"{name}: {licence}")


def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, 'weights' or 'figures'.")],
    scale: Annotated[int | None, typer.Option("--scale", "-s", help="Only this scale.")] = None,
) -> None:
    """Download into the cache, verified; resumes what was interrupted."""
    from nsrlib import data

    for name in names:
        typer.echo(f"{name}: {len(data.fetch_set(name, scale))} files are in place")


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
