"""What a run leaves, and how it goes on: after signals, with damaged checkpoints, killed again and again."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from tiny_runs import COMPLETE, DATA, SHORT, Tiny, assert_same_run, checkpoint, content, patches, same, state, tiny
from torch import nn

from nsrlib import load_weights
from nsrlib.training import Hooks, Recipe, RunFolder, TrainingResult, fit, save_weights


def test_weights_drawn_with_a_seed_leave_the_generator_alone():
    before = torch.get_rng_state()
    a, b, c = tiny(0), tiny(0), tiny(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state(a), state(b))
    assert not same(state(a), state(c))
    torch.manual_seed(0)
    assert same(state(Tiny()), state(a))


# --- the run's folder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, TrainingResult]:
    folder = tmp_path_factory.mktemp("run")
    result = fit(
        tiny(), DATA, SHORT.replace(ema=0.9), validate=lambda net: {"psnr": 30.125}, log_every=4, progress=False,
        out=RunFolder(folder, checkpoint_seconds=0, metadata={"paper": "none", "model": "tiny"}),
    )  # fmt: skip
    return folder, result


def test_a_run_leaves_a_log_a_history_curves_checkpoints_and_weights(finished):
    folder, result = finished
    names = {re.sub(r"-[0-9a-f]{16}", "-hash", path.name) for path in folder.iterdir()}
    assert names - {"events"} == {
        "checkpoint-00000011-hash.pt", "checkpoint-00000012-hash.pt", "history.csv", "log.txt", "recipe.json",
        "weights.safetensors",
    }  # fmt: skip
    lines = (folder / "log.txt").read_text().splitlines()
    assert re.search(
        r"\d\d:\d\d  started: 12 steps of 4 patches of 6x6, l1, adam 0\.01 to 1e-07, cosine, seed 0$", lines[0]
    )
    assert re.search(r"step      12/12  loss [\d.]+  lr [\d.e-]+  psnr 30\.125  [\d.]+ steps/s$", lines[3])
    assert re.search(r"finished after [\d.]+ s$", lines[4])
    assert len(lines) == 5
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), result.history)
    assert list(result.history.columns) == ["step", "loss", "lr", "seconds", "psnr"]
    about = json.loads((folder / "recipe.json").read_text())
    assert about["data"] == DATA.sha256
    assert (about["lr"], about["paper"]) == (1e-2, "none")
    assert result.out == folder


def test_curves_can_be_looked_at_in_tensorboard(finished):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, result = finished
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = accumulator.EventAccumulator(str(folder / "events"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "seconds", "psnr"}
    curve = [(e.step, e.value) for e in events.Scalars("loss")]
    np.testing.assert_allclose(curve, result.history[["step", "loss"]], rtol=1e-6)


def test_weights_are_exported_with_what_they_are(finished):
    folder, result = finished
    with safe_open(folder / "weights.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["paper"], about["model"], about["seed"], about["iterations"]) == ("none", "tiny", "0", "12")
    assert Recipe(**json.loads(about["recipe"])) == result.recipe
    assert about["data"] == f"images {DATA.sha256}"
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|unknown|v.*", about["commit"])
    assert about["torch"] == torch.__version__
    model = load_weights(tiny(5), folder / "weights.safetensors")
    assert same(state(model), state(result.model))
    assert same(
        state(model), {k[7:]: t for k, t in content(checkpoint(folder))["ema"].items() if k.startswith("module.")}
    )


def test_weights_that_cannot_be_written_leave_nothing_behind(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(OSError, match=r"w\.safetensors"):
        save_weights(tiny(), tmp_path / "w.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_channels_last_weights_are_stored_plainly(tmp_path):
    model = tiny().to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "w.safetensors", {"scale": 2})
    assert same(state(load_weights(tiny(3), tmp_path / "w.safetensors")), state(tiny()))


def test_a_finished_run_is_not_trained_again(finished, tmp_path):
    source, result = finished
    folder = shutil.copytree(source, tmp_path / "run")

    def never(net, step):
        raise AssertionError("trained again")

    again = fit(tiny(9), DATA, SHORT.replace(ema=0.9), out=folder, hooks=Hooks(before_forward=never), progress=False)
    assert again.steps == 12
    assert same(state(again.model), state(result.model))
    pd.testing.assert_frame_equal(again.history, result.history)


# --- interruptions ----------------------------------------------------------------------------------------------------


def interrupt(at: int, number: int) -> Hooks:
    return Hooks(before_forward=lambda net, step: os.kill(os.getpid(), number) if step == at else None)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(tiny(), DATA, COMPLETE, out=folder, log_every=5, progress=False)
    return folder


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_saves_and_stops_and_the_run_goes_on_as_if_nothing_happened(tmp_path, uninterrupted, number, error):
    before = signal.getsignal(number)
    with pytest.raises(error) as raised:
        fit(tiny(), DATA, COMPLETE, out=tmp_path, log_every=5, hooks=interrupt(6, number), progress=False)
    if error is SystemExit:
        assert raised.value.code == 128 + 15
    assert signal.getsignal(number) == before
    assert checkpoint(tmp_path).name.startswith("checkpoint-00000007-")
    assert "stopped at step 7 by a signal" in (tmp_path / "log.txt").read_text()
    fit(tiny(8), DATA, COMPLETE, out=tmp_path, log_every=5, progress=False)
    assert "resumed at step 7: 12 steps" in (tmp_path / "log.txt").read_text()
    assert_same_run(tmp_path, uninterrupted)


def test_a_second_interrupt_does_not_wait_for_the_step():
    def twice(net, step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        raise AssertionError("the step went on")

    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), DATA, SHORT, hooks=Hooks(before_forward=twice), progress=False)


def test_a_signal_while_the_results_are_written_is_not_lost(tmp_path, monkeypatch):
    def written(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return save(*args)

    monkeypatch.setattr("safetensors.torch.save", written)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), DATA, SHORT, out=tmp_path, progress=False)
    assert (tmp_path / "weights.safetensors").exists()


DAMAGE = {
    "a flipped bit": lambda raw: raw[:500] + bytes([raw[500] ^ 1]) + raw[501:],
    "cut short": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
}


def stopped_run(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(
            tiny(), DATA, COMPLETE, hooks=interrupt(9, signal.SIGINT), log_every=5,
            out=RunFolder(folder, checkpoint_seconds=0), progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, uninterrupted, how):
    stopped_run(tmp_path)
    newest = checkpoint(tmp_path)
    assert [p.name[11:19] for p in sorted(tmp_path.glob("check*"))] == ["00000009", "00000010"]
    newest.write_bytes(DAMAGE[how](newest.read_bytes()))
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged .*; trying the one before it"):
        fit(tiny(4), DATA, COMPLETE, out=tmp_path, log_every=5, progress=False)
    assert "resumed at step 9:" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / f"damaged-{newest.name}").exists()
    assert_same_run(tmp_path, uninterrupted)


def test_with_every_checkpoint_damaged_the_run_starts_anew(tmp_path, uninterrupted):
    stopped_run(tmp_path)
    for path in tmp_path.glob("check*"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged") as warned:
        fit(tiny(), DATA, COMPLETE, out=tmp_path, log_every=5, progress=False)
    messages = [str(w.message) for w in warned if "damaged" in str(w.message)]
    assert [m.rpartition("; ")[2] for m in messages] == ["trying the one before it", "starting anew"]
    assert_same_run(tmp_path, uninterrupted)


def test_resume_false_starts_anew(tmp_path, uninterrupted):
    stopped_run(tmp_path)
    (tmp_path / ".checkpoint-00000011-0.pt.1.part").write_bytes(b"torn")
    fit(tiny(), DATA, COMPLETE, out=RunFolder(tmp_path, resume=False), log_every=5, progress=False)
    assert "resumed" not in (tmp_path / "log.txt").read_text()
    assert not list(tmp_path.glob(".*.part"))
    assert_same_run(tmp_path, uninterrupted)


def test_checkpoints_come_by_time_as_well(tmp_path):
    fit(tiny(), DATA, SHORT, out=RunFolder(tmp_path, checkpoint_seconds=0), progress=False)
    assert [p.name[11:19] for p in sorted(tmp_path.glob("check*"))] == ["00000011", "00000012"]


def test_resuming_something_else_names_what_differs(tmp_path):
    stopped_run(tmp_path)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir())
    cases = [
        (
            {"recipe": COMPLETE.replace(lr=0.5, seed=1)},
            r"another recipe \(lr 0\.01 -> 0\.5; seed 0 -> 1\); take another",
        ),
        ({"data": patches(seed=1)}, r"another recipe \(the training images\)"),
        ({"hooks": Hooks(networks={"dual": nn.Conv2d(3, 3, 1)})}, r"\(networks \[\] -> \['dual'\]\)"),
        ({"model": tiny(channels=7)}, r"holds a run of another network: .*size mismatch for head\.weight"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(**{"model": tiny(), "data": DATA, "recipe": COMPLETE, "out": tmp_path, "progress": False, **change})
    assert sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir()) == before


def test_a_second_training_in_a_folder_is_refused_and_the_first_goes_on(tmp_path):
    said = []

    def another(model, step):
        if step == 3:
            with pytest.raises(FileExistsError, match=r"another training is at work in .* \(process \d+ on ") as stop:
                fit(tiny(1), DATA, SHORT.replace(lr=0.5), out=tmp_path, progress=False)
            said.append(stop)

    result = fit(tiny(), DATA, SHORT, hooks=Hooks(after_step=another), out=tmp_path, progress=False)
    assert len(said) == 1
    assert result.steps == 12
    assert json.loads((tmp_path / "recipe.json").read_text())["lr"] == SHORT.lr
    assert not [path.name for path in tmp_path.iterdir() if "lock" in path.name or "owner" in path.name]
