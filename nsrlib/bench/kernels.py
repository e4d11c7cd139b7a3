"""How fast the operators are on this device: against every alternative a user has, and against the device's limits.

1. *Right first.* Ours against the definition in float64 on a small shape; what fails is reported and not timed.
2. *Then times,* in turns, so that a busy moment hits all: see :mod:`nsrlib.bench.clock`. Ratios are of medians on a GPU
   and of the best on a CPU, where other programs only ever add time.
3. *Against the limits,* measured in the same run: copying, additions, matrix products. The least time of a case is the
   larger of its bytes over the copy rate and its operations over the rate of their unit (a roofline).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nsrlib import files
from nsrlib.bench.clock import SECONDS, CpuClock, CudaClock, cpu_threads, first_line, float32_products, limits, measure
from nsrlib.bench.operators import OPERATORS, OURS, Case, Inputs, Way, cases_of, draw, nhwc
from nsrlib.evaluation import pick_device

if TYPE_CHECKING:
    import pandas as pd

RESULTS = files.ROOT / "data" / "results" / "ops"


def time_kernels(
    device: str | torch.device = "auto",
    *,
    budget: float = 25.0,
    only: str = "",
    resume: bool = False,
    threads: int | None = None,
    out: str | os.PathLike | None = None,
    seconds: float = SECONDS,
    command: str = "nsr bench kernels",
    say: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Measure the operators (see the module) and write the results to ``out`` after every case.

    Args:
        budget: minutes. A case is begun if the longest one of its operator so far would still fit.
        only: one of :data:`~nsrlib.bench.operators.OPERATORS`; default: all.
        resume: keep the cases that ``out`` holds.
        threads: of the CPU; default: PyTorch's.
        seconds: of measuring for each way to compute a case.

    Returns:
        :func:`table` of the results.

    Raises:
        ValueError: unknown operator; a budget, number of threads or of seconds that is not positive; or results to
            resume from another device, versions, commit, command or number of threads.
    """
    if only and only not in OPERATORS:
        raise ValueError(f"unknown operator {only!r}; known: {', '.join(OPERATORS)}")
    for name, number in (("budget", budget), ("threads", threads), ("seconds", seconds)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")
    start, chosen = time.monotonic(), pick_device(device)
    if chosen.index is not None and chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # events belong to the current device
    with cpu_threads(threads):
        result: dict[str, Any] = {"provenance": _provenance(chosen, command), "limits": {}, "left_out": [], "rows": []}
        slug = re.sub(r"[^a-z0-9]+", "-", result["provenance"]["device"].lower()).strip("-")
        path = Path(out) if out else RESULTS / f"{slug}.json"
        if resume and path.is_file():
            kept = _read(path)
            # results that are written make a clean checkout dirty
            old, new = ({**r["provenance"], "commit": r["provenance"]["commit"][:7]} for r in (kept, result))
            if differs := [key for key in new if old[key] != new[key]]:
                raise ValueError(f"{path.name} was measured with another {', '.join(differs)}; run without --resume")
            result |= {"rows": kept["rows"], "limits": kept["limits"]}
        clock = CudaClock(chosen) if chosen.type == "cuda" else CpuClock()
        done = {row["case"] for row in result["rows"]}
        took: dict[str, float] = {}
        for case in cases_of(chosen.type):
            if str(case) in done or only not in ("", case.op):
                continue
            begun = time.monotonic()
            if begun - start + took.get(case.op, 0.0) > 60 * budget:
                result["left_out"].append(str(case))
                say(f"{case}: left out, no time")
                continue
            if chosen.type == "cpu" or not result["limits"]:  # a CPU is at its best between other programs only
                for unit, rate in limits(chosen, clock, seconds).items():
                    result["limits"][unit] = max(rate, result["limits"].get(unit, 0.0))
            rows = measure_case(case, chosen, clock, seconds)
            result["rows"] += rows
            _against_limits(result["rows"], result["limits"], clock.typical)
            files.write_json(path, result)
            took[case.op] = max(took.get(case.op, 0.0), time.monotonic() - begun)
            say(f"{case}: {_summary(rows)}")
        files.write_json(path, result)
        say(", ".join(f"{unit} {rate / 1e9:,.0f} G/s" for unit, rate in result["limits"].items()))
    return table(path)


def inputs_of(case: Case, device: torch.device) -> Inputs:
    """The inputs of a case, and ``grad`` where its gradients are asked for; the same values whatever the type."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = OPERATORS[case.op].inputs(case)
        if case.backward:
            inputs["grad"] = draw(*case.shape)
    layout = nhwc if case.layout == "channels last" else Tensor.contiguous
    return {name: layout(t.to(device, case.dtype)) for name, t in inputs.items()}


def call_of(case: Case, way: Way, inputs: Inputs) -> Callable[[], dict[str, Tensor]]:
    """A call that gives the result and, if asked for, the gradient of every input."""
    run = torch.compile(way.run, dynamic=False) if way.compiled else way.run
    ready = {name: way.prepare(t) for name, t in inputs.items()}

    def forward() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"y": run(**ready)}

    if not case.backward:
        return forward
    grad = ready.pop("grad")
    leaves = {name: t.detach().requires_grad_() for name, t in ready.items()}

    def forward_backward() -> dict[str, Tensor]:
        y = run(**leaves)
        gradients = torch.autograd.grad(y, list(leaves.values()), grad)
        return {"y": y.detach(), **{f"d_{name}": g for name, g in zip(leaves, gradients, strict=True)}}

    return forward_backward


def errors(case: Case, device: torch.device, size: tuple[int, int] = (15, 19)) -> dict[str, float]:
    """Largest error of every uncompiled equal way on one small picture, relative to the largest exact value.

    Raises:
        ArithmeticError: ours errs more than twice as much as the definition in the same type (beyond the rounding of
            float32); names the tensor and both errors.
    """
    small = replace(case, shape=(1, case.shape[1], *size))
    operator, inputs = OPERATORS[case.op], inputs_of(small, device)
    exact = call_of(small, Way(operator.definition), {k: t.double() for k, t in inputs.items()})()
    with float32_products(tf32=False):
        eager = call_of(small, Way(operator.definition), inputs)()
    found = {}
    for label, way in operator.ways(small, device.type).items():
        if way.compiled or not way.equal:
            continue
        try:
            with float32_products(way.tf32):
                outputs = call_of(small, way, inputs)()
        except Exception:
            if label == OURS:
                raise
            continue  # its time will not be had either, and the row says why
        worst = 0.0
        for name, value in exact.items():
            top = float(value.abs().max()) or 1.0
            error = float((outputs[name].double() - value).abs().max()) / top
            allowed = 2 * float((eager[name].double() - value).abs().max()) / top + torch.finfo(torch.float32).eps
            if label == OURS and not error <= allowed:  # NaN fails too
                raise ArithmeticError(f"{name} errs by {error:.1e} of its largest value, allowed are {allowed:.1e}")
            worst = max(worst, error)
        found[label] = worst
    return found


def measure_case(
    case: Case, device: torch.device, clock: CpuClock | CudaClock, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """The rows of one case, ours first; the columns are those of :func:`table`, without the device's limits."""
    operator = OPERATORS[case.op]
    row = {
        "case": str(case), "op": case.op, "mode": case.mode, "dtype": case.type_name, "shape": list(case.shape),
        "c_out": case.shape[1], "layout": case.layout,
    }  # fmt: skip
    try:
        found = errors(case, device)
    except Exception as error:
        return [{**row, "way": OURS, "skipped": f"not timed: {first_line(error)}"}]
    inputs, ways, room = inputs_of(case, device), operator.ways(case, device.type), clock.room()
    calls = {label: call_of(case, way, inputs) for label, way in ways.items() if way.memory <= room}
    times = measure(calls, clock, seconds, lambda label: float32_products(ways[label].tf32))
    torch._dynamo.reset()
    if work := operator.work(case, device.type):
        row |= work._asdict()
    ours, rows = times[OURS], []
    for label, way in ways.items():
        taken = times.get(label, f"needs {way.memory / 2**30:.0f} GiB, {room / 2**30:.0f} GiB may be had")
        rows.append({**row, "way": label, "equal": way.equal})
        if isinstance(taken, str):
            rows[-1]["skipped"] = taken
            continue
        speedup = None if isinstance(ours, str) else getattr(taken, clock.typical) / getattr(ours, clock.typical)
        rows[-1] |= taken._asdict() | {"speedup": speedup, "max_error": found.get(label)}
    return rows


def _against_limits(rows: Sequence[dict[str, Any]], limits: Mapping[str, float], time: str) -> None:
    """Put into every row which limit binds its case, and what percentage of it a way that equals ours reaches."""
    for row in rows:
        if row.get("unit") in limits and row.get("equal") and row.get(time):
            floors = {"copy": row["bytes"] / limits["copy"], row["unit"]: row["operations"] / limits[row["unit"]]}
            row["limit"], floor = max(floors.items(), key=lambda item: item[1])
            row["percent_of_limit"] = 100_000 * floor / row[time]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    if "median_ms" not in rows[0]:
        return str(rows[0]["skipped"])
    share = rows[0].get("percent_of_limit")
    text = f"{rows[0]['median_ms']:.3g} ms" + (f", {share:.0f} % of the {rows[0]['limit']} limit" if share else "")
    others = sorted((row for row in rows[1:] if row.get("speedup") and row["equal"]), key=lambda row: row["speedup"])
    return "; ".join([text, *(f"{row['way']} takes {row['speedup']:.2g} times as long" for row in others[:1])])


def _provenance(device: torch.device, command: str) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else files.cpu_name(),
        "versions": files.versions(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "commit": files.commit(),
        "command": command,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        return {key: result[key] for key in ("provenance", "limits", "left_out", "rows")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


COLUMNS = (
    *("case", "op", "mode", "dtype", "shape", "c_out", "layout", "way", "equal", "median_ms", "spread_ms", "best_ms"),
    *("launch_ms", "repeats", "peak_bytes", "speedup", "limit", "percent_of_limit", "max_error", "bytes"),
    *("operations", "unit", "skipped"),
)


def table(path: str | os.PathLike) -> pd.DataFrame:
    """Stored results, a row for each way (``nsrlib`` is ours) to compute each case.

    Among the columns: equal (computes what ours does); speedup (its time over ours), max_error (against float64 on a
    small shape, of the largest value); skipped (why there is no time); those of :class:`~nsrlib.bench.clock.Times` and
    :class:`~nsrlib.bench.operators.Work`. ``attrs``: limits a second, left_out, provenance.

    Raises:
        ValueError: the file is damaged.
    """
    import pandas as pd

    result = _read(Path(path))
    rows = pd.DataFrame(result["rows"], columns=list(COLUMNS))
    rows.attrs = {key: result[key] for key in ("limits", "left_out", "provenance")}
    return rows


class Bar(NamedTuple):
    """``column`` of all rows whose op, mode, dtype and way match must be at least ``least``."""

    text: str
    rows: str  # a pattern for "op mode dtype way"
    column: str
    least: float


BARS = {
    "cuda": (
        Bar("adder2d float32: percent of the limit", f"adder2d forward float32 {OURS}", "percent_of_limit", 60),
        Bar("adder2d float32: times torch.cdist", r"adder2d \S+ float32 torch\.cdist", "speedup", 20),
        Bar("int8: times float32 convolution, TF32 off", "adder2d_int8 .*convolution.*TF32 off", "speedup", 1),
        Bar("bsconv2d: percent of the limit", rf"bsconv2d forward \S+ {OURS}", "percent_of_limit", 70),
        Bar("bsconv2d: times eager and torch.compile", r"bsconv2d forward \S+ eager.*", "speedup", 1),
        Bar("mixed_conv2d soft: times grouped convolution", "mixed_conv2d .*grouped.*", "speedup", 4),
        Bar("mixed_conv2d hard: times convolution of 1/k the width", "mixed_conv2d_hard .*1/k.*", "speedup", 1 / 1.3),
        Bar("BSRN x4: times RFDN", "bsrn_x4 .*RFDN.*", "speedup", 1),
    ),
    "cpu": (
        Bar("adder2d: times broadcast", r"adder2d forward\+backward \S+ broadcast", "speedup", 4),
        Bar("adder2d: memory of broadcast over ours", r"adder2d forward\+backward \S+ broadcast", "memory", 10),
    ),
}
"""The project's own aims."""


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Which aims were reached: columns aim, least, worst, best (over cases and ways), verdict."""
    import pandas as pd

    ours = rows[rows["way"] == OURS].set_index("case")["peak_bytes"]
    names = rows["op"] + " " + rows["mode"] + " " + rows["dtype"] + " " + rows["way"]
    rows = rows.assign(memory=rows["peak_bytes"] / rows["case"].map(ours))
    found = []
    for bar in BARS["cuda" if rows.attrs["provenance"]["cuda"] else "cpu"]:
        values = pd.to_numeric(rows.loc[names.str.fullmatch(bar.rows), bar.column]).dropna()
        verdict = "not measured" if values.empty else "reached" if values.min() >= bar.least else "missed"
        found.append((bar.text, bar.least, values.min(), values.max(), verdict))
    return pd.DataFrame(found, columns=["aim", "least", "worst", "best", "verdict"])
