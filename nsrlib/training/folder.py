"""A run's folder: checkpoints that survive anything, the log, curves and weights."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from nsrlib.files import commit, lock, named, whole_file, write_json
from nsrlib.training.state import State


class RunFolder:
    """Where a run is kept, and how often.

    Args:
        path: of the folder: checkpoints, ``log.txt``, ``history.csv``, ``recipe.json``, TensorBoard's ``events`` (if it
            is installed) and, in the end, ``weights.safetensors``.
        resume: go on from the newest sound checkpoint in it; False: start anew and remove what is there.
        checkpoint_seconds: between checkpoints; there is one at the end, too.
        metadata: kept with the weights: paper, model, ...
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        resume: bool = True,
        checkpoint_seconds: float = 120.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.resume = Path(path), resume
        self.checkpoint_seconds, self.metadata = checkpoint_seconds, dict(metadata or {})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and let no other process train in it meanwhile, see :func:`nsrlib.files.lock`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path, "training"):
            yield

    def checkpoints(self) -> list[Path]:
        """The newest last."""
        return sorted(self.path.glob("checkpoint-*.pt"))

    def newest(self) -> bytes | None:
        """Content of the newest sound checkpoint; damaged ones are set aside."""
        for path in reversed(self.checkpoints()):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem.rpartition("-")[2]:
                return content
            path.replace(path.with_name(f"damaged-{path.name}"))
            rest = "trying the one before it" if self.checkpoints() else "starting anew"
            warnings.warn(f"{path.name} is damaged (its content does not match its name); {rest}", stacklevel=4)
        return None

    def keep(self, step: int, content: Mapping[str, Any]) -> None:
        """Write a checkpoint in one step and keep the one before it. Its name ends in its own hash."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        raw = buffer.getvalue()
        name = f"checkpoint-{step:08d}-{hashlib.sha256(raw).hexdigest()[:16]}.pt"
        with whole_file(self.path / name) as draft, draft.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        for old in self.checkpoints()[:-2]:
            old.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a killed process left half written and, unless the run goes on, what another run left."""
        for torn in self.path.glob(".*.part"):
            torn.unlink(missing_ok=True)
        if not self.resume:
            for path in (*self.checkpoints(), self.path / "history.csv", self.path / "weights.safetensors"):
                path.unlink(missing_ok=True)


class Journal:
    """What a run writes down as it goes: nothing without a folder, and nothing unless it ``writes``."""

    def __init__(self, folder: RunFolder | None, state: State, writes: bool = True) -> None:
        self.folder, self.state, self.writes = folder, state, writes
        self.saved = time.monotonic()
        self.log: TextIO | None = None
        self.events: Any = None
        if folder is None or not writes:
            return
        folder.clear()
        about = state.settings | {"data": state.data.sha256} | folder.metadata
        write_json(folder.path / "recipe.json", about)
        self.log = (folder.path / "log.txt").open("a", encoding="utf-8")
        self.say(f"{f'resumed at step {state.step}' if state.step else 'started'}: {state.recipe}")
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder.path / "events"), purge_step=state.step or None)

    def close(self) -> None:
        for handle in (self.log, self.events):
            if handle is not None:
                handle.close()

    def say(self, sentence: str) -> None:
        if self.log is not None:
            with named(Path(self.log.name)):
                self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {sentence}\n")
                self.log.flush()

    def write(self, row: Mapping[str, float]) -> None:
        """A row of the history, in the log and for TensorBoard."""
        if self.log is None:
            return
        speed = f"{row['step'] / max(row['seconds'], 1e-9):.1f} steps/s"
        rest = "  ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in ("step", "seconds"))
        self.say(f"step {int(row['step']):>7,}/{self.state.recipe.iterations:,}  {rest}  {speed}")
        for name, value in row.items():
            if self.events is not None and name != "step":
                self.events.add_scalar(name, value, int(row["step"]))

    def late(self) -> bool:
        return self.folder is not None and time.monotonic() - self.saved > self.folder.checkpoint_seconds

    def save(self) -> None:
        """Keep a checkpoint, unless a loss or a weight is no number: the next row of the log will say so."""
        self.saved = time.monotonic()
        if self.folder is None or not self.writes or not self.state.is_sound():
            return
        self.folder.keep(self.state.step, self.state.content())
        self._write_history(self.folder)

    def last_good(self) -> str:
        """Where the newest checkpoint is, in words."""
        kept = self.folder.checkpoints() if self.folder else []
        return f"the last good checkpoint is {kept[-1].name} in {kept[-1].parent}" if kept else "no checkpoint yet"

    def finish(self) -> None:
        """Write the trained network and the whole history."""
        if self.folder is None or not self.writes:
            return
        state = self.state
        about = {
            "recipe": json.dumps(state.settings),
            "data": f"{state.data.name} {state.data.sha256}",
            "seed": state.recipe.seed,
            "iterations": state.step,
            "commit": commit(),
            "torch": torch.__version__,
        }
        save_weights(state.result(), self.folder.path / "weights.safetensors", self.folder.metadata | about)
        self._write_history(self.folder)
        self.say(f"finished after {state.seconds:.1f} s")

    def _write_history(self, folder: RunFolder) -> None:
        import pandas as pd

        with whole_file(folder.path / "history.csv") as draft:
            pd.DataFrame(self.state.rows).to_csv(draft, index=False)


def save_weights(model: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network's weights as ``.safetensors``, whole or not at all, with ``metadata`` (as strings) inside."""
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with whole_file(Path(path)) as draft:
        draft.write_bytes(save(tensors, {key: str(value) for key, value in (metadata or {}).items()}))
