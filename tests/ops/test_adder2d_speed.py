"""Speed and memory of the adder layer on a CPU: 64 to 64 channels, 3x3, on 8 images of 32x32."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc

import pytest
import torch

from nsrlib.bench.clock import CpuClock, cpu_threads, measure
from nsrlib.ops import adder2d
from nsrlib.ops.adder2d import adder2d_grads_ref, adder2d_ref, cpu


def layer():
    """Input, weight and output gradient."""
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=rng) for size in ((8, 64, 32, 32), (64, 64, 3, 3), (8, 64, 32, 32))]


def seconds_and_peak(f):
    """Wall time of the third call; the most bytes that PyTorch's CPU allocator and Python's held beyond the start's."""
    f()
    tracemalloc.start()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        f()
    held = peak = 0
    events = (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.perf_counter()
    f()
    return time.perf_counter() - start, peak


@pytest.mark.timing
def test_native_code_is_faster_than_cdist_and_than_the_compiled_definition():
    pytest.importorskip("numba")
    from nsrlib.ops.adder2d import native

    x, weight, _ = layer()
    compiled = torch.compile(adder2d_ref)
    ways = {
        "native": lambda: native.forward(x, weight, (1, 1), (1, 1)),
        "cdist": lambda: cpu.forward(x, weight, (1, 1), (1, 1)),
        "compiled": lambda: compiled(x, weight, 1, 1),
    }
    with cpu_threads(1):
        best = {name: times.best_ms for name, times in measure(ways, CpuClock(), 1).items()}
    print({name: f"{ms:.0f} ms" for name, ms in best.items()})
    assert best["cdist"] >= 6 * best["native"]
    assert best["compiled"] >= 2 * best["native"]


@pytest.mark.slow
@pytest.mark.timing
def test_a_cpu_is_12_times_faster_in_a_tenth_of_the_memory():
    """Forward and backward, against the definition."""
    x, weight, grad = layer()
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    seconds, peak = seconds_and_peak(lambda: torch.autograd.grad(adder2d(*leaves, 1, 1), leaves, grad))
    x, weight = x.detach(), weight.detach()
    seconds_ref, peak_ref = seconds_and_peak(
        lambda: (adder2d_ref(x, weight, 1, 1), adder2d_grads_ref(grad, x, weight, 1, 1))
    )
    print(f"{seconds_ref / seconds:.1f} times as fast, {peak_ref / peak:.0f} times less memory, {peak / 2**20:.1f} MiB")
    assert peak > 8 * 64 * 32 * 32 * 4 * 2  # the measurement sees at least the output and one gradient
    assert seconds_ref >= 12 * seconds
    assert peak_ref >= 10 * peak


@pytest.mark.slow
def test_the_first_call_on_a_machine_says_that_it_compiles(tmp_path):
    pytest.importorskip("numba")
    code = "import torch; from nsrlib.ops import adder2d; adder2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))"
    said = []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        said.append(run.stderr.count("compiling the adder layer for this CPU (once, about 20 s)"))
    assert said == [1, 0]
