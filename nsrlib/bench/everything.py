"""One run on a graphics card: all that it shall tell, in order of value, within a few minutes.

Every step is a process of its own with its share of the time. What it says goes to ``bench.log`` at once, and what it
measures to files that are whole after each row, so whatever ends a step, or the run, costs only what was still to
come. The machine needs PyTorch, Triton and pytest for it, and no installation: ``make bench-gpu PY=python3``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pandas as pd
import torch

from nsrlib import files
from nsrlib.bench import kernels
from nsrlib.bench.clock import LEFT_OUT, first_line
from nsrlib.bench.operators import OPERATORS

GRACE = 12.0  # seconds, at most a quarter of its limit, that an interrupted step has to say what it knows
RESERVE = 6.0  # seconds for the summary
WORTH = 5.0  # seconds below which no step is begun
LEAST = 12.0  # seconds of a step, most of which PyTorch's import takes on a slow machine
TRIES = 3  # of a step that goes on after a crash

TOOLS = {
    "ncu": [
        *("ncu", "--clock-control", "none", "--target-processes", "all"),
        *("--kernel-name", "regex:_(adder2d|bsconv2d|mixed_conv2d).*kernel"),
        *("--section", "SpeedOfLight", "--section", "LaunchStats", "--section", "Occupancy"),
    ],
    # within the blocks that PyTorch keeps, no access would be out of bounds
    "compute-sanitizer": [
        *("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"),
        *("compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9"),
    ],
}


class Step(NamedTuple):
    """``share`` of the whole time, 0: what is left; no command: absent; ``again``: arguments to go on after a crash."""

    name: str
    share: float
    command: list[str]
    again: tuple[str, ...] = ()


def steps(device: str, minutes: float, paper: str, out: Path, scratch: Path) -> list[Step]:
    """What is run, with the first study of ``paper``; on a CPU less of it, to rehearse."""
    from nsrlib import papers  # here, since papers use other parts of this package

    gpu, cores = device != "cpu", os.cpu_count() or 1
    profile = "gpu" if gpu else "quick"
    first = next(iter(papers.get(paper).studies_at(profile)))
    tests = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "tests/ops"]
    tests += ["-m", "not hypothesis and not timing and not slow"]
    tests += ["-n", str(min(16, cores))] if gpu else ["-k", "past_the_input or outside_its_input or registered_layout"]
    launches = ["nsr", "bench", "kernels", "--device", device, "--once", "--budget", f"{0.6 * minutes / 12:.3f}"]
    times = ["nsr", "bench", "kernels", "--device", device, "--seconds", "0.03", "--resume"]
    times += ["--budget", f"{0.8 * minutes / 3:.3f}"]
    networks = ["nsr", "bench", "models", "--device", device, "--budget", f"{0.5 * minutes / 18:.3f}"]
    networks += [] if gpu else ["--paper", paper]
    study = ["nsr", "study", paper, first, "--profile", profile]
    study += ["--data", "t91", "--on", "set5", "--jobs", str(min(12, cores))]
    # operators, without the networks that consist of them
    inspected = [*launches, "--only", "2d", "--out", str(scratch / "inspected.json")]
    tools = {tool: [*command, *inspected] if shutil.which(tool) else [] for tool, command in TOOLS.items()}
    # Triton compiles on one core: all operators at once fill its cache
    script = f'for op in {" ".join(OPERATORS)}; do "$@" --only $op --out "$0/$op.json" & done; wait'
    compilations = ["sh", "-c", script, str(scratch), *launches]
    return [
        Step("operators, compiled" if gpu else "operators, interpreted", 1 / 6, tests),
        *([Step("compilations", 1 / 12, compilations)] if gpu else []),
        Step("first launches", 1 / 12, [*launches, "--out", str(out)], ("--resume",)),
        Step("times of operators", 1 / 3, [*times, "--out", str(out)], ("--resume",)),
        *(Step(tool, 1 / 18, command) for tool, command in tools.items()),
        Step("times of networks", 1 / 18, [*networks, "--out", str(out / "networks.csv")]),
        Step("trainings", 0, [*study, "--out", str(scratch)]),
    ]


def run(
    nsr: Sequence[str],
    device: str,
    minutes: float,
    out: str | os.PathLike,
    paper: str,
    say: Callable[[str], object] = print,
) -> bool:
    """Run all :func:`steps` in so many minutes; the folder ``out`` gets results, ``bench.log`` and ``summary.md``.

    Args:
        nsr: what runs this project's command of that name.
        device: ``cuda``, ``cpu`` for a rehearsal, or ``auto``.
        paper: whose study is trained at the end.

    Returns:
        Whether no step failed.

    Raises:
        ValueError: ``minutes`` is not positive, or there is no such device.
        FileNotFoundError: this is no checkout, which has the tests.
    """
    begun, folder = time.monotonic() - time.process_time(), Path(out).absolute()  # imports took time, too
    if not minutes > 0:
        raise ValueError(f"minutes must be positive, got {minutes}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} cannot be used, CUDA is not available here; cpu rehearses")
    if not (files.ROOT / "tests" / "ops").is_dir():
        raise FileNotFoundError(f"the tests of the operators are not in {files.ROOT}: this needs a checkout")
    folder.mkdir(parents=True, exist_ok=True)
    end, rows, started = begun + 60 * minutes - RESERVE, [], time.time()
    with tempfile.TemporaryDirectory() as name, (folder / "bench.log").open("wb", buffering=0) as log:
        for step in steps(device, minutes, paper, folder, Path(name)):
            left = end - time.monotonic()
            step = step._replace(command=[word for part in step.command for word in (nsr if part == "nsr" else [part])])
            row = _run_step(step, min(left, max(LEAST, 60 * minutes * step.share) if step.share else left), log, device)
            if row["result"] == "out of time":
                _forget_interrupted(folder)
            rows.append(row)
            say(f"{row['step']}: {row['result']}, {row['seconds']:.0f} s")
            summary = _summary(rows, folder, started)
            files.write_text(folder / "summary.md", summary)
        _store_trainings(Path(name), folder / "trainings.csv")
    say(f"\n{summary}\nresults: {folder}")
    return not any(str(row["result"]).startswith("failed") for row in rows)


def _run_step(step: Step, limit: float, log: BinaryIO, device: str) -> dict[str, object]:
    begun, result = time.monotonic(), "absent" if not step.command else LEFT_OUT
    log.write(f"\n===== {step.name}: {' '.join(step.command) or result}\n".encode())
    written, command = log.tell(), step.command
    for _ in range(TRIES if step.command else 0):
        left = limit - (time.monotonic() - begun)
        if left < WORTH:
            break
        result = _process(command, left, log, device)
        if not result.startswith("failed") or not step.again:
            break
        command = [*step.command, *(word for word in step.again if word not in step.command)]
    last = _last_line(Path(log.name), written)
    return {"step": step.name, "result": result, "seconds": time.monotonic() - begun, "last line": last}


def _process(command: Sequence[str], limit: float, log: BinaryIO, device: str) -> str:
    """``passed``, ``failed: status 1``, or ``out of time``; nothing of it runs on."""
    grace = min(GRACE, limit / 4)
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(files.ROOT), os.environ.get("PYTHONPATH")]))
    environment.pop("TRITON_INTERPRET", None)
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.Popen(
        command,
        cwd=files.ROOT,
        env=environment,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(limit - grace)
        return "passed" if status == 0 else f"failed: status {status}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest lists the failures that it has
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        return "out of time"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _forget_interrupted(folder: Path) -> None:
    """A launch that the clock cut short may be tried again; one that ended its process may not."""
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        launched = result.get("launched", {})
        result["launched"] = {case: fate for case, fate in launched.items() if fate != kernels.NO_RETURN}
        files.write_json(path, result)


def _last_line(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return files.one_line(lines[-1], 100) if lines else ""


def _summary(rows: Sequence[dict[str, object]], folder: Path, started: float) -> str:
    """The steps, and what the results say so far."""
    shown = pd.DataFrame(rows).to_string(index=False, justify="left", float_format=lambda v: f"{v:.0f}")
    parts = [" ".join(f"{name} {version}" for name, version in files.versions().items()) + f", commit {files.commit()}"]
    parts.append(shown)
    for path in folder.glob("*.json"):
        if path.stat().st_mtime >= started:
            try:
                parts += _times(kernels.table(path))
            except Exception as error:  # whatever it is, the next step shall run
                parts.append(f"{path.name}: {first_line(error)}")
    return "\n\n".join(parts) + "\n"


def _times(table: pd.DataFrame) -> list[str]:
    """How many rows have a time, which kernels died, and which aims were reached."""
    mine = table["way"] == kernels.OURS
    counts = [
        f"{len(t)} rows {of}, {t['median_ms'].notna().sum()} timed"
        for t, of in ((table[mine], "of ours"), (table[~mine], "of others"))
    ]
    lost = [f"{case}: {fate}" for case, fate in table.attrs["launched"].items() if fate != "returned"]
    aims = kernels.verdicts(table).to_string(index=False, na_rep="", float_format=lambda v: f"{v:.3g}")
    return [f"{table.attrs['provenance']['device']}: {'; '.join(counts)}", *lost, aims]


def _store_trainings(folder: Path, target: Path) -> None:
    """The rows of all finished runs of a study."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.rglob("*-seed*.json"))]
    if runs:
        pd.DataFrame([row for run in runs for row in run["rows"]]).to_csv(target, index=False)
