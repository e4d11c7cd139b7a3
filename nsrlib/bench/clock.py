"""Clocks of a CPU and a GPU, calls timed in turns, and what a device does at best."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nsrlib.ops.common import HAS_TRITON, Launch

if HAS_TRITON:
    import triton
    import triton.language as tl

SECONDS = 0.5  # of measuring, for each way to compute a case
REPEATS = (5, 200)  # least and most
LEFT_OUT = "left out, no time"


@contextlib.contextmanager
def float32_products(tf32: bool, search: bool = True) -> Iterator[None]:
    """Float32 products in TF32 or not; ``search``: cuDNN tries its algorithms, to give libraries their best."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=search, allow_tf32=tf32):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """So many threads of PyTorch's on the CPU; None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CpuClock:
    """Milliseconds of a call: of this process if PyTorch has one thread, else by the wall clock."""

    typical = "best_ms"  # other programs only ever add time

    def __init__(self) -> None:
        self._now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def launch(self, call: Callable[[], object]) -> float:
        """Milliseconds until the call returns."""
        start = self._now()
        call()
        return 1000 * (self._now() - start)

    def __call__(self, call: Callable[[], object], lead: float) -> float:
        return self.launch(call)

    def peak(self, call: Callable[[], object]) -> int:
        """The most bytes that PyTorch's allocator holds during a call beyond those before it."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says on stderr that it starts and stops
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            call()
        held = peak = 0
        kineto = profile.profiler.kineto_results
        for event in sorted((e for e in kineto.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    def graph(self, call: Callable[[], object], repeats: int) -> float | str | None:
        """None: graphs are CUDA's."""
        return None

    def room(self) -> int:
        """Bytes that one call may take."""
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class CudaClock:
    """Milliseconds of a call on the device, between two events, from a cold L2 cache.

    A pause of ``lead`` milliseconds goes before the first event, long enough for the CPU to queue the whole call.
    """

    typical = "median_ms"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
        self._flush = torch.empty(max(2 * cache, 2**26), dtype=torch.int8, device=device)
        self._cycles = 0
        self._no_graph = ""
        cycles = 10**7
        self._between(lambda: torch.cuda._sleep(cycles))  # the first launch of a kernel loads it
        self._cycles = int(cycles / max(self._between(lambda: torch.cuda._sleep(cycles)), 1e-3))  # a millisecond

    def _between(self, call: Callable[[], object], lead: float = 0.0) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        torch.cuda._sleep(int(lead * self._cycles))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def launch(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        torch.cuda.synchronize(self.device)
        return 1000 * seconds

    def __call__(self, call: Callable[[], object], lead: float) -> float:
        return self._between(call, min(2 * lead + 0.05, 20.0))

    def peak(self, call: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - before

    def graph(self, call: Callable[[], object], repeats: int) -> float | str | None:
        """Median milliseconds of a call replayed by a CUDA graph, from a cold L2 cache; or why there is no graph."""
        if self._no_graph:
            return self._no_graph
        before = torch.cuda.current_stream(self.device)
        try:
            side, graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()
            side.wait_stream(before)
            with torch.cuda.stream(side):  # what a call does only once must not be captured
                for _ in range(2):
                    call()
            before.wait_stream(side)
            with torch.cuda.graph(graph):
                call()
            graph.replay()
            return statistics.median(self(graph.replay, 0.1) for _ in range(repeats))
        except Exception as error:
            # the allocator stays as the capture left it, so this process tries no other
            self._no_graph = f"a capture failed before: {first_line(error)}"
            return first_line(error)
        finally:
            torch.cuda.set_stream(before)  # a capture that fails stays in its own

    def room(self) -> int:
        torch.cuda.empty_cache()
        return int(0.9 * torch.cuda.mem_get_info(self.device)[0])


Clock = CpuClock | CudaClock


class Times(NamedTuple):
    """Of one call; spread is the quartile distance, launch the time until it returns, peak the most bytes held.

    On CUDA ``graph_ms`` is the time of a replay in a CUDA graph, or ``no_graph`` says why there is none.
    """

    median_ms: float
    spread_ms: float
    best_ms: float
    launch_ms: float
    repeats: int
    peak_bytes: int
    graph_ms: float | None = None
    no_graph: str | None = None


def measure(
    calls: Mapping[str, Callable[[], object]],
    clock: Clock,
    seconds: float = SECONDS,
    around: Callable[[str], contextlib.AbstractContextManager[object]] = lambda label: contextlib.nullcontext(),
    until: float = math.inf,
) -> dict[str, Times | str]:
    """Time calls in turns, each about ``seconds`` within ``around(label)``; one that raises gives its first line.

    A call whose least repeats would not end at ``until``, by :func:`time.monotonic`, gives :data:`LEFT_OUT`.
    """
    found: dict[str, Times | str] = dict.fromkeys(calls, LEFT_OUT)
    warm: dict[str, tuple[float, int, int]] = {}
    least, most = REPEATS
    for label, call in calls.items():
        if time.monotonic() >= until:
            continue
        try:
            with around(label):
                call()  # compiles, chooses algorithms
                lead = clock.launch(call)
                if time.monotonic() + (least + 2) * lead / 1000 >= until:
                    continue
                more = min(4, int(100 * seconds / max(lead, 1e-6)))
                lead = statistics.median([lead, *(clock.launch(call) for _ in range(more))])
                peak = clock.peak(call)
                once = clock(call, lead)
        except Exception as error:  # whatever a library or compiler raises is the answer
            found[label] = first_line(error)
        else:
            warm[label] = lead, peak, max(least, min(most, int(1000 * seconds / max(once, 1e-6))))
    taken: dict[str, list[float]] = {label: [] for label in warm}
    rounds = max((count for _, _, count in warm.values()), default=0)
    for turn in range(1, rounds + 1):
        if time.monotonic() >= until and min(map(len, taken.values()), default=0) >= 2:
            break
        for label in list(taken):
            lead, _, count = warm[label]
            if turn * count // rounds > len(taken[label]):  # the slow ones evenly spread over the turns
                try:
                    with around(label):
                        taken[label].append(clock(calls[label], lead))
                except Exception as error:
                    found[label] = first_line(error)
                    del taken[label]
    for label, ms in taken.items():
        lead, peak, _ = warm[label]
        low, median, high = statistics.quantiles(ms, n=4)
        found[label] = Times(median, high - low, min(ms), lead, len(ms), peak)
    for label in taken:  # last, since a capture that fails may break what follows
        times = found[label]
        if isinstance(times, Times):
            with around(label):
                graph = clock.graph(calls[label], min(times.repeats, 20))
            answer = times._replace(no_graph=graph) if isinstance(graph, str) else times._replace(graph_ms=graph)
            found[label] = answer
    return found


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:160]}".partition("\n")[0]


if HAS_TRITON:

    @triton.jit
    def _rate_kernel(x_ptr, y_ptr, steps, BYTES: tl.constexpr, BLOCK: tl.constexpr):
        """16 operations in a chain, ``steps`` times: additions, or four absolute differences of bytes and their sum."""
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i)
        acc = x
        for _ in range(steps):
            for _ in tl.static_range(16):
                if BYTES:
                    acc = tl.inline_asm_elementwise(
                        "vabsdiff4.u32.s32.s32.add $0, $1, $2, $2;", "=r,r,r",
                        [x, acc], dtype=tl.int32, is_pure=True, pack=1,
                    )  # fmt: skip
                else:
                    acc += x
        tl.store(y_ptr + i, acc)


def rate_launch(x: Tensor, y: Tensor, steps: int) -> tuple[Launch, int]:
    """The launch that adds (float32) or does ``vabsdiff4`` (int32) on flat tensors of 1024 k, and its operations."""
    arguments = {"x_ptr": x, "y_ptr": y, "steps": steps, "BYTES": x.dtype == torch.int32, "BLOCK": 1024}
    return Launch(_rate_kernel, (x.numel() // 1024,), arguments, num_warps=4), x.numel() * steps * 16


def limits(
    device: torch.device, clock: Clock, seconds: float = SECONDS, units: Collection[str] | None = None
) -> dict[str, float]:
    """What this device does at best, a second: bytes copied (read and written), operations of each unit.

    A multiply-add counts as two; additions and vabsdiff4, on CUDA only, are instructions. ``units``: only these.
    """
    cuda = device.type == "cuda"
    work: dict[str, tuple[Callable[[], object], float]] = {}
    x = torch.randn(2**28 if cuda else 2**25, device=device)
    y = torch.empty_like(x)
    work["copy"] = (lambda: y.copy_(x)), 2 * x.numel() * x.element_size()
    # without units for it a processor is a hundred times slower in bfloat16
    sizes = (
        dict.fromkeys(("float32", "bfloat16", "float32, TF32"), 8192) if cuda else {"float32": 1024, "bfloat16": 512}
    )
    for unit, n in sizes.items():
        a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if unit == "bfloat16" else torch.float32)
        work[unit] = partial(torch.mm, a, a), 2 * n**3
    if cuda and HAS_TRITON:
        flat = torch.randn(1024 * 64 * torch.cuda.get_device_properties(device).multi_processor_count, device=device)
        words = {"additions": flat, **({} if torch.version.hip else {"vabsdiff4": flat.view(torch.int32)})}
        for unit, tensor in words.items():
            launch, count = rate_launch(tensor, torch.empty_like(tensor), 1024)
            work[unit] = launch.run, count
    calls = {unit: call for unit, (call, _) in work.items() if units is None or unit in units}
    times = measure(calls, clock, seconds, lambda unit: float32_products("TF32" in unit))
    taken = {unit: getattr(t, clock.typical) for unit, t in times.items() if isinstance(t, Times)}
    return {unit: work[unit][1] / ms * 1000 for unit, ms in taken.items()}
