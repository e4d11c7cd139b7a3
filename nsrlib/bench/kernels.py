"""How fast the operators are on this device: against every alternative a user has, and against the device's limits.

1. *Right first.* Ours against the definition in float64 on a small shape; what fails is reported and not timed.
2. *Then times,* in turns, so that a busy moment hits all: see :mod:`nsrlib.bench.clock`. Ratios are of medians on a GPU
   and of the best on a CPU, where other programs only ever add time.
3. *Against the limits,* measured in the same run: copying, additions, matrix products. The least time of a case is the
   larger of its bytes over the copy rate and its operations over the rate of their unit (a roofline).
"""

from __future__ import annotations

import functools
import json
import math
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
from nsrlib.bench.clock import (
    LEFT_OUT,
    SECONDS,
    CpuClock,
    CudaClock,
    cpu_threads,
    first_line,
    float32_products,
    limits,
    measure,
)
from nsrlib.bench.operators import OPERATORS, OURS, Case, Inputs, Way, cases_of, draw, nhwc
from nsrlib.evaluation import pick_device

if TYPE_CHECKING:
    import pandas as pd

NO_RETURN = "did not return"
RESULTS = files.ROOT / "data" / "results" / "ops"
COMPILING = 10.0  # seconds that the first way through a compiler may take


def time_kernels(
    device: str | torch.device = "auto",
    *,
    budget: float = 25.0,
    only: str = "",
    resume: bool = False,
    threads: int | None = None,
    out: str | os.PathLike | None = None,
    seconds: float = SECONDS,
    compiled: bool = True,
    once: bool = False,
    command: str = "nsr bench kernels",
    say: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Measure the operators (see the module).

    First, on a GPU, ours is launched once in every case; then every case is timed without compilers; then each way
    through ``torch.compile``, in turns with ours again. ``out`` is written after each of these steps, and has a row,
    "left out, no time", for what is still to come.

    Args:
        budget: minutes. A step is begun if the longest one of its kind and operator so far would still fit.
        only: one of :data:`~nsrlib.bench.operators.OPERATORS`, or part of a case's name; default: all.
        resume: keep what ``out`` holds; what did not return from its launch is not tried again.
        threads: of the CPU; default: PyTorch's.
        out: a file, or a folder; default: the device's file in :data:`RESULTS`.
        seconds: of measuring for each way to compute a case.
        compiled: measure the ways through ``torch.compile``.
        once: only launch, and time nothing.

    Returns:
        :func:`table` of the results.

    Raises:
        ValueError: ``only`` is in no case's name; a budget, number of threads or of seconds that is not positive; or
            results to resume from another device, versions, commit, command or number of threads.
        OSError: the GPU no longer answers; what was measured is kept.
    """
    for name, number in (("budget", budget), ("threads", threads), ("seconds", seconds)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be positive, got {number}")
    chosen, until = pick_device(device), time.monotonic() + 60 * budget
    cases = [case for case in cases_of(chosen.type) if only in ("", case.op) or only not in OPERATORS]
    cases = [case for case in cases if only in str(case)]
    if not cases:
        raise ValueError(f"unknown operator {only!r}; known: {', '.join(OPERATORS)}, or part of a case's name")
    if chosen.index is not None and chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # events belong to the current device
    with cpu_threads(threads):
        run = _Run(chosen, _provenance(chosen, command), out, resume, say)
        jobs = [(case, OURS) for case in cases]
        if compiled:
            jobs += [(case, label) for case in cases for label in _labels(case, chosen.type, compiled=True)]
        run.to_come = [(case, way) for case, way in jobs if (str(case), way) not in run.measured()]
        if once or chosen.type == "cuda":
            run.launch(cases, until)
        if not once:
            run.time(seconds, until)
    return table(run.path)


class _Run:
    """Results that grow in a file."""

    def __init__(
        self,
        device: torch.device,
        provenance: dict[str, Any],
        out: str | os.PathLike | None,
        resume: bool,
        say: Callable[[str], object],
    ) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", provenance["device"].lower()).strip("-")
        self.path = RESULTS / f"{slug}.json" if out is None else Path(out)
        if self.path.is_dir():
            self.path /= f"{slug}.json"
        self.device, self.say, self.provenance = device, say, provenance
        self.limits: dict[str, float] = {}
        self.launched: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.to_come: list[tuple[Case, str]] = []
        if resume and self.path.is_file():
            kept = _read(self.path)
            # results that are written make a clean checkout dirty
            old, new = ({**p, "commit": p["commit"][:7]} for p in (kept["provenance"], provenance))
            if differs := [key for key in new if old[key] != new[key]]:
                raise ValueError(
                    f"{self.path.name} was measured with another {', '.join(differs)}; run without --resume"
                )
            self.limits, self.launched = kept["limits"], kept["launched"]
            self.rows = [row for row in kept["rows"] if row.get("skipped") != LEFT_OUT]

    def measured(self) -> set[tuple[str, str]]:
        return {(row["case"], row["way"]) for row in self.rows}

    def write(self) -> None:
        rows = [{**_about(case), "way": way, "skipped": LEFT_OUT} for case, way in self.to_come]
        left_out = list(dict.fromkeys(str(case) for case, way in self.to_come if way == OURS))
        files.write_json(
            self.path,
            {
                "provenance": self.provenance, "limits": self.limits, "launched": self.launched,
                "left_out": left_out, "rows": self.rows + rows,
            },
        )  # fmt: skip

    def launch(self, cases: Sequence[Case], until: float) -> None:
        """Ours once in every case, since a kernel that compiles may still die when it is launched."""
        for case in cases:
            if str(case) in self.launched or time.monotonic() >= until:
                continue
            self.launched[str(case)] = NO_RETURN  # what a process that dies leaves
            self.write()
            begun = time.monotonic()
            try:
                call_of(case, OPERATORS[case.op].ways(case, self.device.type)[OURS], inputs_of(case, self.device))()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.launched[str(case)] = "returned"
            except KeyboardInterrupt:
                del self.launched[str(case)]
                self.write()
                raise
            except Exception as error:
                self.launched[str(case)] = first_line(error)
            self.say(f"{case}: {self.launched[str(case)]}, {time.monotonic() - begun:.1f} s with what was compiled")
            self.end(case)
        self.write()

    def time(self, seconds: float, until: float) -> None:
        """What is to come, as far as it fits."""
        clock = CudaClock(self.device) if self.device.type == "cuda" else CpuClock()
        took: dict[tuple[str, bool], float] = {}
        for case, way in list(self.to_come):
            about, kind, begun = f"{case}" + f", {way}" * (way != OURS), (case.op, way == OURS), time.monotonic()
            if begun + took.get(kind, 0.0 if way == OURS else COMPILING) > until:
                self.say(f"{about}: {LEFT_OUT}")
                continue
            if (fate := self.launched.get(str(case), "returned")) != "returned":
                rows = [{**_about(case), "way": way, "skipped": f"not timed: when launched: {fate}"}]
            else:
                self._measure_limits(case, clock, seconds)
                half = (time.monotonic() + until) / 2  # of what is left, so that one slow case is not all
                rows = measure_case(case, self.device, clock, seconds, half, way)
            self.rows += rows
            _against_limits(self.rows, self.limits, clock.typical)
            self.to_come.remove((case, way))
            self.write()
            took[kind] = max(took.get(kind, 0.0), time.monotonic() - begun)
            self.say(f"{about}: {_summary(rows)}")
            self.end(case)
        self.write()
        self.say(", ".join(f"{unit} {rate / 1e9:,.0f} G/s" for unit, rate in self.limits.items()))

    def _measure_limits(self, case: Case, clock: CpuClock | CudaClock, seconds: float) -> None:
        if self.device.type == "cpu":  # at its best between other programs only, so again and again
            work = OPERATORS[case.op].work(case, "cpu")
            found = limits(self.device, clock, seconds, {"copy", work.unit} if work else {"copy"})
        else:
            found = {} if self.limits else limits(self.device, clock, seconds)
        for unit, rate in found.items():
            self.limits[unit] = max(rate, self.limits.get(unit, 0.0))

    def end(self, case: Case) -> None:
        """OSError if a kernel broke the process's use of the GPU, after which every call would fail."""
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize(self.device)
            except RuntimeError as error:
                self.write()
                raise OSError(
                    f"the GPU no longer answers after {case} ({first_line(error)}); --resume goes on with the next"
                ) from None


def _labels(case: Case, device: str, compiled: bool) -> list[str]:
    return [label for label, way in OPERATORS[case.op].ways(case, device).items() if way.compiled == compiled]


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
    run = way.run
    if way.compiled:
        compile = functools.cache(functools.partial(torch.compile, dynamic=False))
        run = functools.partial(run, compile=compile) if way.pieces else compile(run)
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


def errors(case: Case, device: torch.device, size: tuple[int, int] = (16, 32)) -> dict[str, float]:
    """Largest error of every uncompiled equal way on two small pictures, relative to the largest exact value.

    Sides are multiples of 16, so that Triton compiles little else than for the sizes that are timed; adder2d packs no
    copy of so little.

    Raises:
        ArithmeticError: ours errs more than twice as much as the definition in the same type (beyond the rounding of
            float32); names the tensor and both errors.
    """
    small = replace(case, shape=(2, case.shape[1], *size))
    operator, inputs = OPERATORS[case.op], inputs_of(small, device)
    exact = call_of(small, Way(operator.definition), {k: t.double() for k, t in inputs.items()})()
    with float32_products(tf32=False, search=False):
        eager = call_of(small, Way(operator.definition), inputs)()
    found = {}
    for label, way in operator.ways(small, device.type).items():
        if way.compiled or not way.equal:
            continue
        try:
            with float32_products(way.tf32, search=False):
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


def _about(case: Case) -> dict[str, Any]:
    return {
        "case": str(case), "op": case.op, "mode": case.mode, "dtype": case.type_name, "shape": list(case.shape),
        "c_out": case.shape[1], "layout": case.layout,
    }  # fmt: skip


def measure_case(
    case: Case,
    device: torch.device,
    clock: CpuClock | CudaClock,
    seconds: float = SECONDS,
    until: float = math.inf,
    which: str = OURS,
) -> list[dict[str, Any]]:
    """The rows of one case; the columns are those of :func:`table`, without the device's limits.

    ``which``: ours and every way without a compiler, ours first; or one other way alone, in turns with ours.
    """
    operator, row, found = OPERATORS[case.op], _about(case), {}
    if which == OURS:
        try:
            found = errors(case, device)
        except Exception as error:
            return [{**row, "way": OURS, "skipped": f"not timed: {first_line(error)}"}]
    every, room = operator.ways(case, device.type), clock.room()
    ways = {label: way for label, way in every.items() if (label == which or (which == OURS and not way.compiled))}
    inputs = inputs_of(case, device)
    calls = {
        label: call_of(case, way, inputs) for label, way in ({OURS: every[OURS]} | ways).items() if way.memory <= room
    }
    times = measure(calls, clock, seconds, lambda label: float32_products(every[label].tf32), until)
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
    first = rows[0]
    if "median_ms" not in first:
        return str(first["skipped"])
    text = f"{first['median_ms']:.3g} ms"
    if first["way"] != OURS:
        return text + (f", {first['speedup']:.2g} times as long as ours" if first["speedup"] else "")
    share = first.get("percent_of_limit")
    text += f", {share:.0f} % of the {first['limit']} limit" if share else ""
    others = sorted((row for row in rows[1:] if row.get("speedup") and row["equal"]), key=lambda row: row["speedup"])
    return "; ".join([text, *(f"{row['way']} takes {row['speedup']:.2g} times as long" for row in others[:1])])


def _provenance(device: torch.device, command: str) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{files.cpu_name()}, {instruction_set()}",
        "versions": files.versions(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "commit": files.commit(),
        "command": command,
    }


def instruction_set() -> str:
    """What a processor's name does not tell: its vector units, and whether it computes in bfloat16 or imitates it."""
    bfloat16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
    return f"{torch.backends.cpu.get_cpu_capability()} {'with' if bfloat16 else 'without'} bfloat16"


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        kept = {key: result[key] for key in ("provenance", "limits", "left_out", "rows")}
        return kept | {"launched": result.get("launched", {})}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None


COLUMNS = (
    *("case", "op", "mode", "dtype", "shape", "c_out", "layout", "way", "equal", "median_ms", "spread_ms", "best_ms"),
    *("launch_ms", "graph_ms", "repeats", "peak_bytes", "speedup", "limit", "percent_of_limit", "max_error", "bytes"),
    *("operations", "unit", "skipped", "no_graph"),
)


def table(path: str | os.PathLike) -> pd.DataFrame:
    """Stored results, a row for each way (``nsrlib`` is ours) to compute each case.

    Among the columns: equal (computes what ours does); speedup (its time over ours), max_error (against float64 on a
    small shape, of the largest value); skipped (why there is no time); those of :class:`~nsrlib.bench.clock.Times` and
    :class:`~nsrlib.bench.operators.Work`. ``attrs``: limits a second, left_out, provenance; launched (by case: what
    became of the first launch).

    Raises:
        ValueError: the file is damaged.
    """
    import pandas as pd

    result = _read(Path(path))
    rows = pd.DataFrame(result["rows"], columns=list(COLUMNS))
    rows.attrs = {key: result[key] for key in ("limits", "left_out", "provenance", "launched")}
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
        Bar("adder2d: times every torch.compile form", r"adder2d \S+ \S+ .*torch\.compile", "speedup", 1),
        Bar("int8: times float32 convolution, TF32 off", "adder2d_int8 .*convolution.*TF32 off", "speedup", 1),
        Bar("bsconv2d: percent of the limit", rf"bsconv2d forward \S+ {OURS}", "percent_of_limit", 70),
        Bar("bsconv2d: times every alternative", r"bsconv2d forward \S+ (eager|merged).*", "speedup", 1),
        Bar("mixed_conv2d soft: times grouped convolution", "mixed_conv2d .*grouped.*", "speedup", 4),
        Bar("mixed_conv2d hard: times convolution of 1/k the width", "mixed_conv2d_hard .*1/k.*", "speedup", 1 / 1.3),
        Bar("BSRN x4: times RFDN", "bsrn_x4 .*RFDN.*", "speedup", 1),
    ),
    "cpu": (
        Bar("adder2d forward: times torch.cdist", r"adder2d forward \S+ torch\.cdist", "speedup", 8),
        Bar("adder2d forward: times every torch.compile form", r"adder2d forward \S+ .*torch\.compile", "speedup", 1),
        Bar("adder2d with gradients: times broadcast", r"adder2d forward\+backward \S+ broadcast", "speedup", 40),
        Bar("adder2d: memory of broadcast over ours", r"adder2d forward\+backward \S+ broadcast", "memory", 10),
        Bar(
            "bsconv2d with gradients: times every eager form",
            r"bsconv2d forward\+backward \S+ (?!.*torch\.compile)(eager|merged).*",
            "speedup",
            1,
        ),
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
