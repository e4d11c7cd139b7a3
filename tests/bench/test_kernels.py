"""The benchmark: what it compares is right, times are what a clock says, an interrupted run loses nothing.

The GPU's clock is tried against stand-ins for CUDA's events; its cases are built and counted on the CPU.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from nsrlib.bench import clock as clocks
from nsrlib.bench import kernels
from nsrlib.bench.clock import CpuClock, CudaClock, Times, float32_products, measure
from nsrlib.bench.kernels import BARS, call_of, errors, inputs_of, verdicts
from nsrlib.bench.operators import GROUPS, OPERATORS, OURS, Case, Way, cases_of

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = (2, 8, 6, 5)


def small(case: Case, channels: int = 16) -> Case:
    """The same on few channels and pixels; BSRN itself needs 15x15."""
    if case.op == "bsrn_x4":
        return replace(case, shape=(1, 3, 15, 16))
    return replace(case, shape=(2, channels, 6, 5))


# --- cases and the ways to compute them -------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operator_is_measured_and_no_case_twice(device):
    found = cases_of(device)
    assert len({str(case) for case in found}) == len(found)
    assert {case.op for case in found} >= set(OPERATORS) - {"adder2d_int8"}
    assert str(found[0]).startswith("adder2d forward")


def test_the_gpu_sees_the_sizes_types_and_rivals_that_were_asked_for():
    found = cases_of("cuda")
    assert {case.shape[1] for case in found} >= {64, 256}
    assert {case.shape[-2:] for case in found} >= {(48, 48), (180, 320), (360, 640)}
    assert {case.mode for case in found if case.op == "adder2d"} == {"forward", "forward+backward"}
    adders = OPERATORS["adder2d"].ways(found[0], "cuda")
    assert {"torch.cdist", "broadcast by taps, torch.compile"} <= set(adders)
    bsconv = next(c for c in found if c.op == "bsconv2d" and c.dtype == torch.float32)
    labels = set(OPERATORS["bsconv2d"].ways(bsconv, "cuda"))
    for form in ("eager", "eager, padded first", "merged dense convolution"):
        assert {f"{form} channels last{c}, TF32 {t}" for c in ("", ", torch.compile") for t in ("on", "off")} <= labels


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("backward", [False, True])
def test_equal_ways_compute_the_same_in_float64(op, backward):
    if backward and op in ("adder2d_int8", "mixed_conv2d_hard", "bsrn_x4"):
        pytest.skip("forward only")
    shape = (1, 3, 15, 16) if op == "bsrn_x4" else (2, 16, 6, 5)
    case = Case(op, shape, torch.float64, backward=backward)
    if op == "adder2d_int8":
        case = replace(case, dtype=torch.int8)
    inputs = inputs_of(case, CPU)
    exact = call_of(case, Way(OPERATORS[op].definition), inputs)()
    seen = 0
    for label, way in OPERATORS[op].ways(case, "cpu").items():
        if way.equal:
            for name, value in call_of(case, replace(way, compiled=False), inputs)().items():
                torch.testing.assert_close(
                    value.double(), exact[name].double(), rtol=1e-9, atol=1e-9, msg=f"{label} {name}"
                )
            seen += 1
    assert seen >= 2 or op == "adder2d_int8"
    assert len(exact) == (1 + len(inputs) - 1 if backward else 1)


@pytest.mark.parametrize("case", [c for c in cases_of("cuda") if c.op != "bsrn_x4"], ids=str)
def test_every_way_of_the_gpu_s_cases_runs(case):
    case = small(case)
    inputs = inputs_of(case, CPU)
    for label, way in OPERATORS[case.op].ways(case, "cuda").items():
        with float32_products(way.tf32):
            outputs = call_of(case, replace(way, compiled=False), inputs)()
        assert outputs["y"].shape == (2, 16, 6, 5), label
        assert len(outputs) == (len(inputs) if case.backward else 1)
    work = OPERATORS[case.op].work(case, "cuda")
    assert work.bytes > 0
    assert work.unit in ("additions", "vabsdiff4", "bfloat16", "float32, TF32")


@pytest.mark.parametrize("op", ["adder2d", "bsconv2d", "mixed_conv2d"])
def test_work_is_counted_as_pytorch_counts_it(op):
    from torch.utils.flop_counter import FlopCounterMode

    case = Case(op, (2, 16, 6, 5))
    inputs = inputs_of(case, CPU)
    with FlopCounterMode(display=False) as counter:
        call_of(case, OPERATORS[op].ways(case, "cpu")[OURS], inputs)()
    work = OPERATORS[op].work(case, "cpu")
    mixing = 2 * 2 * GROUPS * 16 * 16 * 9 if op == "mixed_conv2d" else 0  # what can be shared is not counted
    assert work.operations == counter.get_total_flops() - mixing
    tensors = [t for name, t in inputs.items() if name not in ("gate", "pointwise", "depthwise", "bias")]
    assert work.bytes == sum(t.numel() * 4 for t in tensors) + 2 * 16 * 6 * 5 * 4  # and the result


# --- right first ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases_of(DEVICE.type), ids=str)
def test_ours_pass_the_gate(case):
    found = errors(replace(case, shape=(1, min(case.shape[1], 64), *case.shape[2:])), DEVICE)
    assert next(iter(found)) == OURS
    bound = 1e-5 if case.dtype == torch.float32 else 0.02
    assert all(error < bound for error in found.values()), found


def test_a_wrong_kernel_is_reported_and_not_timed(monkeypatch):
    case = small(cases_of("cpu")[0])
    adder = OPERATORS["adder2d"].definition
    wrong = OPERATORS["adder2d"]._replace(
        ways=lambda case, device: {OURS: Way(lambda x, weight: 1.0001 * adder(x, weight))}
    )
    monkeypatch.setitem(OPERATORS, "adder2d", wrong)
    with pytest.raises(ArithmeticError, match=r"y errs by 1\.\de-04 of its largest value, allowed are "):
        errors(case, CPU)
    [row] = kernels.measure_case(case, CPU, CpuClock())
    assert row["skipped"].startswith("not timed: ArithmeticError: y errs by")
    assert "median_ms" not in row


def test_nan_does_not_pass_the_gate(monkeypatch):
    adder = OPERATORS["adder2d"].definition
    nan = OPERATORS["adder2d"]._replace(
        ways=lambda case, device: {OURS: Way(lambda x, weight: adder(x, weight) * torch.nan)}
    )
    monkeypatch.setitem(OPERATORS, "adder2d", nan)
    with pytest.raises(ArithmeticError, match="y errs by nan"):
        errors(Case("adder2d", TINY), CPU)


def test_float32_settings_are_put_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled
    with float32_products(tf32=True):
        assert torch.backends.cudnn.enabled
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    with float32_products(tf32=False):
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    after = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled
    assert after == before


# --- times ------------------------------------------------------------------------------------------------------------


def test_other_programs_do_not_count_with_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert CpuClock()(lambda: time.sleep(0.05), 0) < 50
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert CpuClock()(lambda: time.sleep(0.05), 0) >= 50


class FakeClock(CpuClock):
    """Gives what the calls return; remembers their order."""

    def __init__(self):
        self.order = []

    def launch(self, call):
        return 0.5

    def graph(self, call, repeats):
        return {400.0: "it asks the CPU", 100.0: 90.0}[call()]

    def peak(self, call):
        return 7

    def __call__(self, call, lead):
        assert lead == 0.5
        value = call()
        self.order.append(value)
        return value


def test_calls_take_turns_and_slow_ones_are_spread_evenly(monkeypatch):
    monkeypatch.setattr(clocks, "REPEATS", (2, 8))
    clock = FakeClock()
    found = measure({"slow": lambda: 400.0, "fast": lambda: 100.0}, clock, seconds=0.8)
    assert found["fast"] == Times(100, 0, 100, 0.5, 8, 7, graph_ms=90)
    assert found["slow"] == Times(400, 0, 400, 0.5, 2, 7, no_graph="it asks the CPU")
    assert clock.order[2:12] == [100, 100, 100, 400, 100, 100, 100, 100, 400, 100]  # after the two that warm up


def test_a_call_that_raises_says_why_and_the_others_are_timed():
    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more")

    found = measure({"a": no_memory, "b": lambda: None}, CpuClock(), seconds=0.001)
    assert found["a"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB"
    assert found["b"].repeats >= clocks.REPEATS[0]
    assert list(found) == ["a", "b"]


def test_a_call_that_raises_late_loses_its_time_and_no_other():
    left = iter(range(6))
    found = measure({"a": lambda: next(left), "b": lambda: None}, CpuClock(), seconds=0.001)
    assert found["a"] == "StopIteration: "
    assert found["b"].repeats >= clocks.REPEATS[0]


def test_what_does_not_fit_the_time_is_left_out():
    calls = []

    def slow():
        start = time.process_time()
        while time.process_time() - start < 0.1:
            pass
        calls.append(start)

    table = {"slow": slow, "b": lambda: None}
    found = measure(table, CpuClock(), seconds=0.001, until=time.monotonic() + 0.25)
    assert found["slow"] == "left out, no time"
    assert len(calls) <= 2
    assert measure(table, CpuClock(), until=time.monotonic()) == dict.fromkeys(table, "left out, no time")


@pytest.mark.timing
def test_the_cpu_clock_sees_ten_times_the_work():
    clock = CpuClock()
    x = torch.randn(300, 300)
    once, ten = (min(clock(lambda n=n: [x @ x for _ in range(n)], 0) for _ in range(5)) for n in (1, 10))
    assert 5 < ten / once < 20


def test_the_cpu_clock_sees_memory():
    held = CpuClock().peak(lambda: torch.ones(1000, 1000) + torch.ones(1000, 1000))
    assert 12e6 <= held < 12.1e6  # two operands and a sum


class FakeCuda:
    """CUDA as the clock sees it: a queue that runs at once, on a device of 1 GHz; its time passes by ``sleep`` only."""

    def __init__(self):
        self.log: list[str] = []
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def pause(self, cycles: int) -> None:
        self.log.append(f"pause {cycles}")
        self.sleep(cycles * 1e-9)

    def event(self, enable_timing: bool):
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeCuda):
        self.device = device

    def record(self):
        self.device.log.append("record")
        self.at = self.device.seconds

    def synchronize(self):
        self.device.log.append("wait")

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


@pytest.fixture
def fake_cuda(monkeypatch) -> FakeCuda:
    class Properties:
        L2_cache_size = 2**20

    device = FakeCuda()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "_sleep", device.pause, raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(time, "perf_counter", lambda: device.seconds)
    return device


def test_the_gpu_clock_times_between_events_after_a_pause(fake_cuda):
    clock = CudaClock(CPU)
    fake_cuda.log.clear()
    assert clock(lambda: fake_cuda.sleep(0.01), lead=2.0) == pytest.approx(10)  # without the pause of twice 2 ms
    pause, *rest = fake_cuda.log
    assert int(pause.split()[1]) == pytest.approx(1e6 * (2 * 2.0 + 0.05), rel=1e-3)
    assert rest == ["record", "record", "wait"]
    assert clock.launch(lambda: fake_cuda.sleep(0.01)) == pytest.approx(10)


def test_a_graph_is_timed_by_its_replays_and_its_absence_explained(fake_cuda, monkeypatch):
    class Stream:
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            fake_cuda.sleep(0.002)

    clock = CudaClock(CPU)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "set_stream", fake_cuda.log.append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", contextlib.nullcontext)
    assert clock.graph(lambda: fake_cuda.sleep(0.01), 5) == pytest.approx(2)

    def asks():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    assert clock.graph(asks, 5) == "RuntimeError: operation not permitted when stream is capturing"
    assert isinstance(fake_cuda.log[-1], Stream)  # back to where it was


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
def test_a_captured_call_takes_no_longer_than_one_that_is_launched():
    x = torch.randn(2**24, device=DEVICE)
    found = measure({"add": lambda: x + 1, "asks": lambda: (x.sum() > 0).item()}, CudaClock(DEVICE), 0.01)
    assert 0.5 < found["add"].graph_ms / found["add"].median_ms < 1.5
    assert found["asks"].graph_ms is None
    assert "captur" in found["asks"].no_graph


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
def test_limits_of_a_gpu_are_plausible():
    found = clocks.limits(DEVICE, CudaClock(DEVICE), 0.1)
    assert set(found) >= {"copy", "float32", "float32, TF32", "bfloat16", "additions"}
    assert found["bfloat16"] > found["float32"] > found["additions"] / 2 > 1e11


def test_the_kernel_that_counts_additions_adds(monkeypatch):
    """In the interpreter, or compiled; 16 additions a step."""
    pytest.importorskip("triton")
    if DEVICE.type == "cpu":
        import triton.experimental.gluon  # imported by the interpreter, before anything is patched
        import triton.language
        from triton.runtime import JITFunction
        from triton.runtime.interpreter import InterpretedFunction

        for module in (clocks, triton.language, triton.language.standard):
            for name, value in vars(module).copy().items():
                if isinstance(value, JITFunction):
                    monkeypatch.setattr(module, name, InterpretedFunction(value.fn))
    x = torch.arange(2048.0, device=DEVICE)
    y = torch.full_like(x, torch.nan)
    launch, count = clocks.rate_launch(x, y, 3)
    launch.run()
    assert torch.equal(y, 49 * x)
    assert count == 2048 * 48


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """A run of two tiny cases, with a compiler that compiles nothing."""
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)
    found = [Case("adder2d", TINY, backward=True), Case("bsconv2d", TINY)]
    monkeypatch.setattr(kernels, "cases_of", lambda device: found)
    monkeypatch.setattr(kernels, "limits", lambda *args: {"copy": 1e10, "float32": 1e11})

    def run(path, **options):
        said = []
        options = {"compiled": False, "seconds": 1e-3} | options
        table = kernels.time_kernels("cpu", out=path, say=said.append, **options)
        return table, said

    return run


def test_a_run_writes_rows_with_versions_command_and_limits(quick, tmp_path):
    path = tmp_path / "cpu.json"
    table, said = quick(path, threads=1, command="nsr bench kernels --threads 1")
    ours = table[table["way"] == OURS].set_index("op")
    assert list(ours.index) == ["adder2d", "bsconv2d"]
    assert (ours["speedup"] == 1).all()
    assert (ours["max_error"] < 1e-5).all()
    assert (ours["median_ms"] > 0).all()
    # 8 operations a tap over 1e11 a second, and 3 reads or writes of a pixel's channels over 1e10 bytes
    floor = 8 * 2 * 30 * 64 * 9 / 1e11
    assert ours.loc["adder2d", "percent_of_limit"] == pytest.approx(1e5 * floor / ours.loc["adder2d", "best_ms"])
    assert ours.loc["adder2d", "limit"] == "float32"
    assert table.loc[~table["equal"], "percent_of_limit"].isna().all()
    stored = json.loads(path.read_text())
    assert stored["provenance"]["command"] == "nsr bench kernels --threads 1"
    assert stored["provenance"]["threads"] == 1
    assert stored["provenance"]["versions"]["torch"] == torch.__version__
    assert stored["limits"] == {"copy": 1e10, "float32": 1e11}
    assert "times as long" in said[0]
    assert said[-1] == "copy 10 G/s, float32 100 G/s"
    pd.testing.assert_frame_equal(kernels.table(path), table)


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(quick, tmp_path, monkeypatch):
    path = tmp_path / "cpu.json"
    real = kernels.measure_case

    def interrupt(case, *args):
        if case.op == "bsconv2d":
            raise KeyboardInterrupt
        return real(case, *args)

    monkeypatch.setattr(kernels, "measure_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quick(path)
    first = kernels.table(path)
    assert set(first.loc[first["median_ms"].notna(), "op"]) == {"adder2d"}
    monkeypatch.setattr(kernels, "measure_case", real)
    table, said = quick(path, resume=True)
    assert set(table.loc[table["median_ms"].notna(), "op"]) == {"adder2d", "bsconv2d"}
    kept = first["median_ms"].dropna()
    assert list(table["median_ms"][: len(kept)]) == list(kept)
    assert not any(line.startswith("adder2d") for line in said)
    with pytest.raises(ValueError, match=r"cpu\.json was measured with another command; run without --resume"):
        quick(path, resume=True, command="another")
    pd.testing.assert_frame_equal(kernels.table(path), table)


def test_ways_through_a_compiler_come_last_one_by_one_and_beside_ours(quick, tmp_path, monkeypatch):
    seen = []
    real = kernels.measure

    def remember(calls, *args):
        seen.append(list(calls))
        return real(calls, *args)

    monkeypatch.setattr(kernels, "measure", remember)
    table, said = quick(tmp_path / "cpu.json", compiled=True)
    slow = [label for _, label in table[["case", "way"]].to_numpy() if "torch.compile" in label]
    assert "broadcast by taps, torch.compile" in slow
    assert seen[2:] == [[OURS, label] for label in slow]
    assert not any("torch.compile" in label for calls in seen[:2] for label in calls)
    assert (table["speedup"] > 0).all()
    assert not table.duplicated(["case", "way"]).any()
    assert any(line.endswith("times as long as ours") for line in said)
    without, _ = quick(tmp_path / "cpu.json")
    assert not without["way"].str.contains("torch.compile").any()


def test_what_no_longer_fits_the_budget_is_left_out_and_said(quick, tmp_path, monkeypatch):
    now, real = [0.0], kernels.measure_case
    monkeypatch.setattr(kernels.time, "monotonic", lambda: now[0])

    def slow(case, *args):
        now[0] += 240
        return real(case, *args)

    monkeypatch.setattr(kernels, "measure_case", slow)
    cases = [Case("adder2d", TINY, backward=True), Case("bsconv2d", TINY), Case("bsconv2d", TINY, backward=True)]
    monkeypatch.setattr(kernels, "cases_of", lambda device: cases)
    table, said = quick(tmp_path / "cpu.json", budget=9)  # the third would begin after 8 minutes and take 4
    left = "bsconv2d forward+backward float32 2x8x6x5 to 8, NCHW"
    assert table.attrs["left_out"] == [left]
    assert list(table["case"].unique()) == list(map(str, cases))
    assert table.set_index("case")["skipped"][left] == "left out, no time"
    assert f"{left}: left out, no time" in said


@pytest.mark.parametrize("fate", ["raises", "dies"])
def test_a_kernel_that_dies_when_it_is_launched_costs_one_case(quick, tmp_path, monkeypatch, fate):
    def launch(**inputs):
        raise RuntimeError("an illegal memory access was encountered") if fate == "raises" else SystemExit

    dying = OPERATORS["adder2d"]._replace(ways=lambda case, device: {OURS: Way(launch)})
    monkeypatch.setitem(OPERATORS, "adder2d", dying)
    path = tmp_path / "cpu.json"
    with pytest.raises(SystemExit) if fate == "dies" else contextlib.nullcontext():
        quick(path, once=True)
    assert set(kernels.table(path)["skipped"]) == {"left out, no time"}
    quick(path, once=True, resume=True)  # goes on after the one that died
    table, _ = quick(path, resume=True)
    assert len(table.attrs["launched"]) == 2
    rows = table[table["way"] == OURS].set_index("op")
    reason = "did not return" if fate == "dies" else "RuntimeError: an illegal memory access was encountered"
    assert rows.loc["adder2d", "skipped"] == f"not timed: when launched: {reason}"
    assert rows.loc["bsconv2d", "median_ms"] > 0


def test_once_only_launches(quick, tmp_path):
    table, said = quick(tmp_path / "cpu.json", once=True)
    assert set(table.attrs["launched"].values()) == {"returned"}
    assert list(table["skipped"]) == ["left out, no time"] * 2
    assert len(said) == 2


def test_a_file_in_a_folder_is_named_after_the_processor_and_what_it_can(quick, tmp_path):
    table, _ = quick(tmp_path, once=True)
    device = table.attrs["provenance"]["device"]
    assert device.endswith((" with bfloat16", " without bfloat16"))
    assert torch.backends.cpu.get_cpu_capability() in device
    [path] = tmp_path.iterdir()
    assert path.stem == "-".join(re.findall("[a-z0-9]+", device.lower()))


def test_what_needs_too_much_memory_is_skipped_with_the_reason(quick, monkeypatch):
    monkeypatch.setattr(CpuClock, "room", lambda self: 1000)
    rows = kernels.measure_case(Case("adder2d", TINY), CPU, CpuClock(), 1e-3)
    by_way = {row["way"]: row for row in rows}
    assert by_way["broadcast"]["skipped"] == "needs 0 GiB, 0 GiB may be had"
    assert by_way[OURS]["median_ms"] > 0


def test_one_operator_alone_and_bad_options(quick, tmp_path):
    for only in ("bsconv2d", "conv2d forward float32"):
        table, _ = quick(tmp_path / "cpu.json", only=only)
        assert set(table["op"]) == {"bsconv2d"}
    with pytest.raises(ValueError, match=r"unknown operator 'conv3d'; known: adder2d, .*, or part of a case's name"):
        quick(tmp_path / "cpu.json", only="conv3d")
    for name in ("budget", "threads"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            quick(tmp_path / "cpu.json", **{name: 0})
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is damaged"):
        kernels.table(tmp_path / "bad.json")


def test_the_threads_are_put_back(quick, tmp_path):
    before = torch.get_num_threads()
    quick(tmp_path / "cpu.json", threads=before + 1)
    assert torch.get_num_threads() == before


# --- aims -------------------------------------------------------------------------------------------------------------


def rows_for(device, values):
    """A table with one case, its ways and what they reached."""
    rows = [
        {"case": f"{op} {mode}", "op": op, "mode": mode, "dtype": "float32", "way": way, **numbers}
        for (op, mode, way), numbers in values.items()
    ]
    table = pd.DataFrame(rows, columns=list(kernels.COLUMNS))
    table.attrs = {"provenance": {"cuda": "13.0" if device == "cuda" else None}}
    return table


def test_aims_are_judged_by_their_worst_case():
    both = "forward+backward"
    table = rows_for(
        "cpu",
        {
            ("adder2d", both, OURS): {"peak_bytes": 10, "speedup": 1},
            ("adder2d", both, "broadcast"): {"peak_bytes": 99, "speedup": 45},
            ("adder2d", "forward", "broadcast"): {"peak_bytes": 1, "speedup": 1},
            ("bsconv2d", both, "eager"): {"speedup": 1.2},
            ("bsconv2d", both, "eager, padded first channels last"): {"speedup": 0.9},
            ("bsconv2d", both, "eager channels last, torch.compile"): {"speedup": 0.5},
        },
    )
    found = verdicts(table).set_index("aim").loc[lambda t: t["verdict"] != "not measured"]
    assert list(found["verdict"]) == ["reached", "missed", "missed"]
    assert found["worst"].tolist() == [45, 9.9, 0.9]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_aim_has_rows_that_can_decide_it(device):
    values = {}
    for case in cases_of(device):
        for label in OPERATORS[case.op].ways(small(case), "cpu" if case.op == "bsrn_x4" else device):
            bytes_held = 1 if label == OURS else 20
            values[case.op, case.mode, label] = {"speedup": 50.0, "percent_of_limit": 80.0, "peak_bytes": bytes_held}
    found = verdicts(rows_for(device, values))
    assert len(found) == len(BARS[device])
    assert set(found["verdict"]) == {"reached"}
    assert set(verdicts(rows_for(device, {}))["verdict"]) == {"not measured"}


def test_the_context_of_a_way_surrounds_its_calls():
    seen = []

    @contextlib.contextmanager
    def around(label):
        seen.append(label)
        yield

    measure({"a": lambda: None}, CpuClock(), 1e-4, around)
    assert seen[0] == "a"
    assert len(seen) > clocks.REPEATS[0]
