"""One training loop for all five papers: recipes, checkpoints that survive anything, several processes.

A :class:`Recipe` says how a network is trained and :func:`fit` does it. What a paper needs beyond that is passed in:
``losses`` (several outputs, dual regression), ``networks`` with their own optimisers, and hooks before and after a step
(annealing, gradient rescaling, statistics).

Everything random in a step follows from (seed, step, process), so a run that was interrupted, resumed, or moved goes on
bit for bit as if nothing had happened (on one kind of CPU with one number of threads; GPUs reorder sums).

Several GPUs or machines: start the same script, or ``nsr train``, with ``torchrun``; PyTorch's DistributedDataParallel
does the rest. ``batch`` is the batch of all processes together. Batch normalisation sees each process's share only.
"""

from __future__ import annotations

import atexit
import dataclasses
import fnmatch
import hashlib
import io
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.evaluation import pick_device
from nsrlib.files import commit, whole_file, write_json
from nsrlib.training.recipe import Recipe, learning_rate

if TYPE_CHECKING:
    import pandas as pd

Losses = Callable[..., Mapping[str, Tensor]]
"""``losses(model, batch, step, **networks) -> {name: term}``; the terms are weighted already and summed."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "charbonnier": lambda a, b: torch.sqrt((a - b).square() + 1e-6).mean(),
}
"""Means over all elements, of images in [0, 1]."""

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
AGREE_EVERY = 10
"""Steps between agreements of several processes on checkpoints and signals; torchrun kills 30 s after its signal."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw a network's first weights from ``seed``, on the CPU, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


# --- the loop ---------------------------------------------------------------------------------------------------------


@dataclass
class TrainingResult:
    """What :func:`fit` returns.

    Attributes:
        model: the trained network (the running mean of its weights if the recipe has one), in evaluation mode.
        history: a row every ``log_every`` steps: step, loss and its terms (means since the last row), lr, seconds, and
            what hooks and validation returned.
        recipe: as given.
        steps: optimiser steps in all, those before a resume included.
        seconds: of training, validation and checkpoints included, likewise.
        out: the run's folder, or None.
    """

    model: nn.Module
    history: pd.DataFrame
    recipe: Recipe
    steps: int
    seconds: float
    out: Path | None


def fit(
    model: nn.Module,
    data: Patches,
    recipe: Recipe,
    *,
    losses: Losses | None = None,
    networks: Mapping[str, nn.Module] | None = None,
    before_forward: Callable[[nn.Module, int], None] | None = None,
    before_step: Callable[[nn.Module, int], None] | None = None,
    after_step: Callable[[nn.Module, int], Mapping[str, float] | None] | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every: int = 0,
    out: str | os.PathLike | None = None,
    resume: bool = True,
    checkpoint_every: int = 0,
    checkpoint_seconds: float = 120.0,
    log_every: int = 0,
    device: str | torch.device = "auto",
    progress: bool | None = None,
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: takes and returns what ``losses`` expects; by default ``(N, C, P, P)`` in, ``(N, C, rP, rP)`` out.
        data: patches; moved to the device, and cut to ``recipe.patch`` (which must be theirs).
        recipe: how.
        losses: called as ``losses(model, batch, step, **networks)``; returns named terms that are summed. Default: the
            recipe's loss between the output and the target.
        networks: further networks that are trained along, each with an optimiser of its own after the same recipe.
        before_forward: called with (model, step) first of all, to set what depends on the step, counted from 0.
        before_step: called with (model, step) between the gradients and the optimiser, to rescale gradients.
        after_step: called with (model, steps done) at every row of the log; what it returns goes into that row.
        validate: called with the network (its running mean if there is one) in evaluation mode; what it returns goes
            into the log. The first number decides about plateaus: larger is better. Only the first process calls it.
        validate_every: steps between validations, each of which makes a row of the log; 0: only at the end.
        out: folder for checkpoints, ``log.txt``, ``history.csv``, TensorBoard's events (if it is installed) and, in the
            end, ``weights.safetensors``. None: nothing is written.
        resume: go on from the newest sound checkpoint in ``out``; False: start anew and remove what is there.
        checkpoint_every: steps between checkpoints; 0: by time alone.
        checkpoint_seconds: time between checkpoints.
        log_every: steps between rows of the log; 0: two hundred rows in all.
        device: ``auto``, ``cpu``, ``cuda``, ...; under ``torchrun`` each process takes its own GPU.
        progress: a bar; None: if someone is watching.
        description: what the bar says.
        metadata: kept with the weights: paper, model, ...

    Returns:
        The network and what happened.

    Raises:
        ValueError: patch or batch do not fit; a checkpoint made with another recipe, other data or another network.
        FloatingPointError: the loss or a weight is NaN or infinite; tells the step, the loss and the last good
            checkpoint, which is never one of these.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a checkpoint has been written.
    """
    if data.patch != recipe.patch:
        raise ValueError(f"recipe.patch={recipe.patch}, but data was cut for patches of {data.patch}")
    if validate is None and (validate_every or recipe.schedule == "plateau"):
        raise ValueError("validate_every and the schedule 'plateau' need a function: pass validate")
    if recipe.schedule == "plateau" and not validate_every:
        raise ValueError("the schedule 'plateau' needs validate_every, got 0")
    with _process_group(device) as (place, rank, world):
        if recipe.batch % world:
            raise ValueError(f"recipe.batch={recipe.batch} cannot be divided among {world} processes")
        loop = _Loop(
            model, data.to(place), recipe, losses or _plain_loss(recipe), dict(networks or {}), place, rank, world
        )
        loop.before_forward, loop.before_step, loop.after_step = before_forward, before_step, after_step
        loop.validate, loop.validate_every = validate, validate_every
        loop.log_every = log_every or max(1, recipe.iterations // 200)
        loop.checkpoint_every, loop.checkpoint_seconds = checkpoint_every, checkpoint_seconds
        folder = Path(out) if out is not None else None
        if folder:
            loop.open(folder, resume, dict(metadata or {}))
        try:
            with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), _signals() as stop:
                loop.run(stop, progress, description)
        finally:
            loop.close()
        return TrainingResult(loop.result(), loop.frame(), recipe, loop.step, loop.seconds, folder)


def _plain_loss(recipe: Recipe) -> Losses:
    loss = LOSSES[recipe.loss]

    def losses(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        return {recipe.loss: loss(model(batch.input), batch.target)}

    return losses


class _Step(nn.Module):
    """All networks and the loss as one module, so that DistributedDataParallel wraps them once and sees one forward."""

    def __init__(self, model: nn.Module, networks: Mapping[str, nn.Module], losses: Losses, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.networks = nn.ModuleDict(networks)
        self.losses = losses
        # kept out of the module's children: its parameters are the model's
        self.__dict__["called"] = torch.compile(model) if compiled else model

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return dict(self.losses(self.__dict__["called"], batch, step, **dict(self.networks.items())))


class _Loop:
    before_forward: Callable[[nn.Module, int], None] | None
    before_step: Callable[[nn.Module, int], None] | None
    after_step: Callable[[nn.Module, int], Mapping[str, float] | None] | None
    validate: Callable[[nn.Module], Mapping[str, float]] | None
    validate_every: int
    log_every: int
    checkpoint_every: int
    checkpoint_seconds: float

    def __init__(
        self,
        model: nn.Module,
        data: Patches,
        recipe: Recipe,
        losses: Losses,
        networks: dict[str, nn.Module],
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        self.data, self.recipe, self.device, self.rank, self.world = data, recipe, device, rank, world
        self.model = model.to(device).train()
        self.networks = {name: net.to(device).train() for name, net in networks.items()}
        if recipe.channels_last:
            for net in (self.model, *self.networks.values()):
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for net in (self.model, *self.networks.values()) for p in net.parameters()]
        self.whole: nn.Module = _Step(self.model, self.networks, losses, recipe.compile)
        if world > 1:
            self.whole = nn.parallel.DistributedDataParallel(self.whole)
        self.optimisers = {
            name: _optimiser(net, recipe, device) for name, net in {"model": self.model, **self.networks}.items()
        }
        self.ema: Any = None
        if recipe.ema:
            from torch.optim.swa_utils import AveragedModel

            self.ema = AveragedModel(self.model, multi_avg_fn=_running_mean(recipe.ema), use_buffers=True)
        self.step = 0
        self.seconds = 0.0
        self.factor, self.best, self.stalled = 1.0, -math.inf, 0
        self.rows: list[dict[str, float]] = []
        self.window: list[dict[str, Tensor]] = []  # losses since the last row, still on the device
        self.folder: Path | None = None
        self.log: TextIO | None = None
        self.events: Any = None
        self.metadata: dict[str, Any] = {}
        per_process = recipe.batch // world
        self.shard = slice(rank * per_process, (rank + 1) * per_process)

    # --- steps

    def run(self, stop: list[int], progress: bool | None, description: str) -> None:
        from tqdm.auto import tqdm

        recipe = self.recipe
        watched = progress if progress is not None else None  # tqdm's None: only on a terminal
        hidden = True if self.rank else (None if watched is None else not watched)
        bar = tqdm(total=recipe.iterations, initial=self.step, desc=description, unit="step", disable=hidden)
        self._clock = self._saved = time.monotonic()
        with bar:
            while not self._ended():
                self._one_step()
                bar.update()
                if self.step % self.log_every == 0 or self._validation_is_due() or self.step == recipe.iterations:
                    self._row(bar)
                late, stopped = self._asked(stop)
                due = self.checkpoint_every and self.step % self.checkpoint_every == 0
                if due or late or stopped or self._ended():
                    self.save()
                if stopped:
                    self._say(f"stopped at step {self.step} by a signal; the same command goes on from here")
                    break
            else:
                self._finish()
        if stop:
            raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(128 + stop[0])

    def _ended(self) -> bool:
        recipe = self.recipe
        flat = recipe.schedule == "plateau" and recipe.lr * self.factor < recipe.lr_min
        return flat or self.step >= recipe.iterations

    def _validation_is_due(self) -> bool:
        if self.validate is None:
            return False
        return self.step == self.recipe.iterations or bool(self.validate_every and self.step % self.validate_every == 0)

    def _one_step(self) -> None:
        recipe, step = self.recipe, self.step
        torch.manual_seed(stream_seed(recipe.seed, step, 2 + self.rank))
        lr = learning_rate(recipe, step, self.factor)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = lr * group["lr_scale"]
            optimiser.zero_grad(set_to_none=True)
        batch = self.data.batch(recipe.batch, stream_seed(recipe.seed, step), self.shard)
        if recipe.channels_last:
            batch = Batch(*(t.to(memory_format=torch.channels_last) for t in batch))
        if self.before_forward:
            self.before_forward(self.model, step)
        cast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bfloat16" else nullcontext()
        with cast:
            terms = self.whole(batch, step)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        total.backward()
        if self.before_step:
            self.before_step(self.model, step)
        if recipe.clip_value:
            nn.utils.clip_grad_value_(self.parameters, recipe.clip_value)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        for optimiser in self.optimisers.values():
            optimiser.step()
        if self.ema:
            self.ema.update_parameters(self.model)
        kept = {"loss": total.detach()}
        if len(terms) > 1:
            kept |= {name: term.detach().float() for name, term in terms.items()}
        self.window.append(kept)
        self.step += 1

    def _row(self, bar: Any) -> None:
        """Average the losses since the last row, check them, validate if it is time, and log."""
        means = self._window_means()
        lr = learning_rate(self.recipe, self.step - 1, self.factor)
        row: dict[str, float] = {"step": self.step, **means, "lr": lr, "seconds": self._seconds_so_far()}
        if self.after_step:
            row |= dict(self.after_step(self.model, self.step) or {})
        if self._validation_is_due():
            row |= self._validated()
        self.rows.append(row)
        bar.set_postfix_str(" ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "lr", "seconds")))
        self._write(row)

    def _window_means(self) -> dict[str, float]:
        stacked = {name: torch.stack([kept[name] for kept in self.window]) for name in self.window[0]}
        values = {name: t.double().cpu() for name, t in stacked.items()}
        if self.world > 1:  # every process saw its share; equal shares make the mean of means the mean
            for name, t in stacked.items():
                t = t.clone()
                torch.distributed.all_reduce(t)
                values[name] = t.double().cpu() / self.world
        bad = (~values["loss"].isfinite()).nonzero()
        if len(bad):
            at = self.step - len(self.window) + int(bad[0]) + 1
            self._diverged(f"the loss is {float(values['loss'][bad[0]]):g} at step {at}")
        if not self._weights_are_finite():
            self._diverged(f"weights are NaN or infinite after step {self.step}, with a loss of {values['loss'][-1]:g}")
        self.window.clear()
        return {name: float(t.mean()) for name, t in values.items()}

    def _diverged(self, what: str) -> NoReturn:
        newest = max(self._checkpoints(), default=None, key=_step_of)
        where = f"the last good checkpoint is {newest.name} in {newest.parent}" if newest else "no checkpoint yet"
        self._say(f"{what}; {where}")
        raise FloatingPointError(f"{what}; {where}")

    def _weights_are_finite(self) -> bool:
        """A finite loss may have an infinite gradient (a square root at 0), which the next loss would only show."""
        with torch.no_grad():
            return bool(nn.utils.get_total_norm(self.parameters, math.inf).isfinite())  # asked once for all

    def _validated(self) -> dict[str, float]:
        assert self.validate is not None
        result: dict[str, float] = {}
        if self.rank == 0:
            network = self.ema.module if self.ema else self.model
            network.eval()
            with torch.no_grad():
                result = {name: float(v) for name, v in self.validate(network).items()}
            network.train()
        result = self._told_by_first(result)
        if self.recipe.schedule == "plateau":
            first = next(iter(result.values()))
            self.stalled = 0 if first > self.best else self.stalled + 1
            self.best = max(first, self.best)
            if self.stalled >= self.recipe.patience:
                self.factor, self.stalled = self.factor * self.recipe.gamma, 0
        return result

    def _seconds_so_far(self) -> float:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        return round(self.seconds, 3)

    def _asked(self, stop: list[int]) -> tuple[bool, bool]:
        """Whether it is time for a checkpoint, and whether to stop; processes agree on it every few steps."""
        late = time.monotonic() - self._saved > self.checkpoint_seconds
        if self.world == 1:
            return late, bool(stop)
        if self.step % AGREE_EVERY:
            return False, False
        flags = torch.tensor([float(late), float(stop[0]) if stop else 0.0], device=self.device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        late, number = bool(flags[0]), int(flags[1])
        if number and not stop:
            stop.append(number)
        return late, bool(number)

    def _told_by_first(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    # --- the run's folder

    def open(self, folder: Path, resume: bool, metadata: dict[str, Any]) -> None:
        self.folder, self.metadata = folder, metadata
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._load()
        if self.rank:
            return
        for torn in folder.glob(".*.part"):  # of a process that was killed
            torn.unlink(missing_ok=True)
        if not resume:
            for path in (*self._checkpoints(), folder / "history.csv", folder / "weights.safetensors"):
                path.unlink(missing_ok=True)
        write_json(folder / "recipe.json", dataclasses.asdict(self.recipe) | {"data": self.data.sha256} | metadata)
        self.log = (folder / "log.txt").open("a")
        self._say(f"{'resumed at step ' + str(self.step) if self.step else 'started'}: {self.recipe}")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.events = SummaryWriter(str(folder / "events"), purge_step=self.step or None)

    def close(self) -> None:
        for handle in (self.log, self.events):
            if handle is not None:
                handle.close()

    def _say(self, sentence: str) -> None:
        if self.log is not None:
            self.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {sentence}\n")
            self.log.flush()

    def _write(self, row: Mapping[str, float]) -> None:
        if self.rank or self.folder is None:
            return
        speed = f"{row['step'] / max(row['seconds'], 1e-9):.1f} steps/s"
        rest = "  ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in ("step", "seconds"))
        self._say(f"step {int(row['step']):>7,}/{self.recipe.iterations:,}  {rest}  {speed}")
        if self.events is not None:
            for name, value in row.items():
                if name != "step":
                    self.events.add_scalar(name, value, int(row["step"]))

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.pt"), key=_step_of) if self.folder else []

    def save(self) -> None:
        """Write a checkpoint in one step and keep the one before it. Its name ends in its own hash."""
        self._saved = time.monotonic()
        if self.rank or self.folder is None:
            return
        if not (all(kept["loss"].isfinite() for kept in self.window) and self._weights_are_finite()):
            return  # the next row of the log will say so
        self._seconds_so_far()
        buffer = io.BytesIO()
        torch.save(self._state(), buffer)
        content = buffer.getvalue()
        name = f"checkpoint-{self.step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        with whole_file(self.folder / name) as draft, draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for old in self._checkpoints()[:-2]:
            old.unlink(missing_ok=True)
        self._write_history()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "ema": self.ema.state_dict() if self.ema else None,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "plateau": [self.factor, self.best, self.stalled],
            "rows": self.rows,
            "window": self.window,
            "seconds": self.seconds,
            "recipe": dataclasses.asdict(self.recipe),
            "data": self.data.fingerprint,
        }

    def _load(self) -> None:
        # read by one process, so that machines need not share a folder and all go on from the same checkpoint
        content = self._told_by_first(self._newest() if self.rank == 0 else None)
        if content:
            self._restore(torch.load(io.BytesIO(content), map_location=self.device, weights_only=True))

    def _newest(self) -> bytes | None:
        """Content of the newest sound checkpoint; damaged ones are set aside."""
        for path in reversed(self._checkpoints()):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] == path.stem.rpartition("-")[2]:
                return content
            path.replace(path.with_name(f"damaged-{path.name}"))
            rest = "trying the one before it" if self._checkpoints() else "starting anew"
            warnings.warn(f"{path.name} is damaged (its content does not match its name); {rest}", stacklevel=5)
        return None

    def _restore(self, state: dict[str, Any]) -> None:
        now = dataclasses.asdict(self.recipe)
        before = state["recipe"]
        changed = [f"{k} {before.get(k)!r} -> {now[k]!r}" for k in now if _listed(before.get(k)) != _listed(now[k])]
        if state["data"] != self.data.fingerprint:
            changed.append("the training images")
        if set(state["networks"]) != set(self.networks):
            changed.append(f"networks {sorted(state['networks'])} -> {sorted(self.networks)}")
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with another recipe ({'; '.join(changed)}); "
                "take another folder, or resume=False to start anew"
            )
        try:
            self.model.load_state_dict(state["model"])
            for name, net in self.networks.items():
                net.load_state_dict(state["networks"][name])
            if self.ema:
                self.ema.load_state_dict(state["ema"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.folder} holds a run of another network: {reason}") from None
        self.step, self.rows, self.window, self.seconds = (state[k] for k in ("step", "rows", "window", "seconds"))
        self.factor, self.best, self.stalled = state["plateau"]

    def _write_history(self) -> None:
        assert self.folder is not None
        with whole_file(self.folder / "history.csv") as draft:
            self.frame().to_csv(draft, index=False)

    def _finish(self) -> None:
        if self.rank or self.folder is None:
            return
        about = {
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "data": f"{self.data.name} {self.data.sha256}",
            "seed": self.recipe.seed,
            "iterations": self.step,
            "commit": commit(),
            "torch": torch.__version__,
        }
        save_weights(self.result(), self.folder / "weights.safetensors", self.metadata | about)
        self._write_history()
        self._say(f"finished after {self.seconds:.1f} s")

    def result(self) -> nn.Module:
        """The trained network in evaluation mode, with the running mean of its weights where there is one."""
        if self.ema:
            self.model.load_state_dict(self.ema.module.state_dict())
        return self.model.eval()

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows)


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: how JSON and checkpoints compare."""
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value


def _step_of(path: Path) -> int:
    number = path.stem.split("-")[1] if path.stem.count("-") >= 2 else ""
    return int(number) if number.isdigit() else -1


def _running_mean(decay: float) -> Callable[..., None]:
    def update(means: Any, current: Any, count: Tensor) -> None:
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, current, 1 - decay)
        else:  # counts and indices have no mean
            torch._foreach_copy_(means, current)

    return torch.no_grad()(update)


def _optimiser(network: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = next((f for pattern, f in recipe.lr_scale if fnmatch.fnmatchcase(name, pattern)), 1.0)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(network).__name__} has no parameters to train")
    members = [
        {"params": params, "lr": recipe.lr * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), params in groups.items()
    ]
    options: dict[str, Any] = {"momentum": recipe.momentum} if recipe.optimiser == "sgd" else {"betas": recipe.betas}
    # one call for all parameters: small networks would spend more time in the optimiser than in their layers
    fused = all(p.dtype == torch.float32 for group in groups.values() for p in group) and device.type in ("cpu", "cuda")
    return OPTIMISERS[recipe.optimiser](members, fused=fused, **options)


def save_weights(model: nn.Module, path: str | os.PathLike, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network's weights as ``.safetensors`` in one step, with ``metadata`` (kept as strings) inside."""
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    about = {key: str(value) for key, value in (metadata or {}).items()}
    with whole_file(Path(path)) as draft:
        draft.write_bytes(save(tensors, about))


# --- processes and signals --------------------------------------------------------------------------------------------


@contextmanager
def _process_group(device: str | torch.device) -> Iterator[tuple[torch.device, int, int]]:
    """The device, the number and the count of this process; joins the others if ``torchrun`` started several."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield pick_device(device), 0, 1
        return
    import datetime

    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = str(device).startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    place = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(place)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=datetime.timedelta(minutes=10))
        # kept for further calls: a group that is left and joined again finds the addresses of the old one
        atexit.register(torch.distributed.destroy_process_group)
    yield place, rank, world


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM puts its number into; the second Ctrl-C interrupts at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
