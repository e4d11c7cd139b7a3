"""Runs in processes of their own: killed again and again, stopped by signals, spread over two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import DATA, PLAIN, assert_same_run, plain, same, state, tiny

from nsrlib import load_weights
from nsrlib.training import Hooks, fit

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def python(*arguments: object) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    env |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def forked(tmp_path_factory) -> Path:
    """Runs of one process that forks them all: most of its time it imports PyTorch."""
    folder = tmp_path_factory.mktemp("forked")
    python(HERE / "killed.py", folder, 3, "spread")
    return folder


def assert_as_if_nothing_had_happened(folder: Path, kills: int) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert len(report["starts"]) > kills
    assert report["starts"] == sorted(report["starts"])  # never behind an earlier checkpoint
    assert len(set(report["starts"])) > kills / 4
    assert report["status"] == {"SIGINT": -2, "SIGTERM": 143}
    assert_same_run(folder / "killed", folder / "whole")
    weights = [load_weights(tiny(7), folder / name / "weights.safetensors") for name in ("killed", "whole")]
    assert same(*map(state, weights))
    assert not list((folder / "killed").glob(".*.part"))


def test_a_run_that_is_killed_ends_bit_for_bit_like_one_that_was_not(forked):
    assert_as_if_nothing_had_happened(forked, 3)


@pytest.mark.slow
def test_so_does_one_that_is_killed_twenty_times(tmp_path):
    python(HERE / "killed.py", tmp_path, 20)
    assert_as_if_nothing_had_happened(tmp_path, 20)


def assert_the_loss_curve_of_one_process(folder: Path) -> None:
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))

    def in_double(model, batch, step):
        return {"l2": F.mse_loss(model(batch.input.double()), batch.target.double())}

    one = fit(plain(), DATA, PLAIN, log_every=1, progress=False).history["loss"].to_numpy()
    exact = fit(plain(torch.float64), DATA, PLAIN, hooks=Hooks(in_double), log_every=1, progress=False).history["loss"]
    # both are float32 evaluations of one function that sum in different orders, so each is as far from float64 as the
    # other, give or take a factor of two; 2^-24: the exact losses are logged in float32
    allowed = 4 * np.abs(one - exact.to_numpy()).max() + 2**-24 * one.max()
    assert allowed < 1e-6
    assert np.ptp(one) > 1e-3
    assert first["loss"] == second["loss"]
    np.testing.assert_allclose(first["loss"], one, rtol=0, atol=allowed)
    assert first["q"] == second["q"]
    assert (first["validated"] > 0, second["validated"]) == (True, 0)
    for report in (first, second):
        assert report["error"] == "recipe.batch=5 cannot be divided among 2 processes"
        assert report["code"] == 143
        assert report["resumed"] == 20
        assert report["same"]
        assert report["curve"] == report["loss"]
    assert first["saved"] == ["00000010", "00000020"]


def test_two_processes_give_the_loss_curve_of_one(forked):
    assert_the_loss_curve_of_one_process(forked)


@pytest.mark.slow
def test_so_do_two_that_torchrun_starts(tmp_path):
    python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", HERE / "spread.py", tmp_path)
    assert_the_loss_curve_of_one_process(tmp_path)
