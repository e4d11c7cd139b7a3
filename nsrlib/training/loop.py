"""One training loop for all papers: it goes on after anything, and in several processes.

Everything random in a step follows from (seed, step, process), so a run that was interrupted, resumed, or moved goes on
bit for bit as if nothing had happened (on one kind of CPU with one number of threads; GPUs reorder sums).

Several GPUs or machines: start the same script, or ``nsr train``, with ``torchrun``; PyTorch's DistributedDataParallel
does the rest. ``batch`` is the batch of all processes together. Batch normalisation sees each process's share only.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsrlib.data.patches import Batch, Patches, stream_seed
from nsrlib.training.folder import Journal, RunFolder
from nsrlib.training.processes import Processes, caught_signals, joined
from nsrlib.training.recipe import Hooks, Losses, Recipe
from nsrlib.training.speed import Loss, decided, fastest, is_open
from nsrlib.training.state import State

if TYPE_CHECKING:
    import pandas as pd

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "charbonnier": lambda a, b: torch.sqrt((a - b).square() + 1e-6).mean(),
}
"""Means over all elements, of images in [0, 1]."""

Score = Callable[[nn.Module], Mapping[str, float]]

AGREE_EVERY = 10
"""Steps between agreements of several processes on checkpoints and signals; torchrun kills 30 s after its signal."""


@dataclass
class TrainingResult:
    """What :func:`fit` returns; ``steps`` and ``seconds`` count those before a resume, validation and checkpoints.

    Attributes:
        model: the trained network (the running mean of its weights if the recipe has one), in evaluation mode.
        history: a row every ``log_every`` steps: step, loss and its terms (means since the last row), lr, seconds, and
            what hooks and validation returned.
        recipe: with the form that was chosen where it was left open; ``chosen``: how that was found, in words.
    """

    model: nn.Module
    history: pd.DataFrame
    recipe: Recipe
    steps: int
    seconds: float
    out: Path | None
    chosen: str = ""


def fit(
    model: nn.Module,
    data: Patches,
    recipe: Recipe,
    *,
    hooks: Hooks | None = None,
    validate: Score | None = None,
    validate_every: int = 0,
    log_every: int = 0,
    out: str | os.PathLike | RunFolder | None = None,
    device: str | torch.device = "auto",
    progress: bool | None = None,
    description: str = "",
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: takes and returns what ``hooks.losses`` expects; by default ``(N, C, P, P)`` in, ``(N, C, rP, rP)`` out.
        data: patches; moved to the device, and cut to ``recipe.patch`` (which must be theirs).
        validate: called with the network (its running mean if there is one) in evaluation mode; what it returns goes
            into the log. The first number decides about plateaus: larger is better. Only the first process calls it.
        validate_every: steps between validations, each of which makes a row of the log; 0: only at the end.
        log_every: steps between rows of the log; 0: two hundred rows in all.
        out: folder of the run, or a :class:`RunFolder`, which says more. What was interrupted in it goes on. None:
            nothing is written.
        device: ``auto``, ``cpu``, ``cuda``, ...; under ``torchrun`` each process takes its own GPU.
        progress: a bar, which says ``description``; None: if someone is watching.

    Raises:
        ValueError: patch or batch do not fit; a checkpoint made with another recipe, other data or another network.
        FileExistsError: another process trains in the folder.
        FloatingPointError: the loss or a weight is NaN or infinite; tells the step, the loss and the last good
            checkpoint, which is never one of these.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a checkpoint has been written.
    """
    import pandas as pd

    if data.patch != recipe.patch:
        raise ValueError(f"recipe.patch={recipe.patch}, but data was cut for patches of {data.patch}")
    if validate is None and (validate_every or recipe.schedule == "plateau"):
        raise ValueError("validate_every and the schedule 'plateau' need a function: pass validate")
    if recipe.schedule == "plateau" and not validate_every:
        raise ValueError("the schedule 'plateau' needs validate_every, got 0")
    folder = RunFolder(out) if isinstance(out, str | os.PathLike) else out
    hooks, log_every = hooks or Hooks(), log_every or max(1, recipe.iterations // 200)
    with joined(device) as processes, ExitStack() as locks:
        processes.share(recipe.batch)  # or an error, before anything is moved or written
        if folder and processes.first:
            locks.enter_context(folder.alone())
        data, chosen = data.to(processes.device), ""
        if is_open(recipe) and folder and folder.resume:
            recipe = processes.told_by_first(decided(recipe, folder.path / "recipe.json") if processes.first else None)
        if is_open(recipe):
            found = fastest(recipe, model, data, hooks, _loss_of(recipe, hooks)) if processes.first else None
            recipe, chosen = processes.told_by_first(found)
        state = State(model, hooks.networks, recipe, data)
        if folder:
            _resume(state, folder, processes)
        gpus = [processes.device] if processes.device.type == "cuda" else []
        with (
            closing(Journal(folder, state, writes=processes.first)) as journal,
            torch.random.fork_rng(devices=gpus),
            caught_signals() as stop,
        ):
            if chosen:
                journal.say(f"fastest here: {chosen}")
            loop = _Loop(state, hooks, journal, processes, validate, validate_every, log_every)
            loop.run(stop, progress, description)
        history, where = pd.DataFrame(state.rows), folder.path if folder else None
        return TrainingResult(state.result(), history, recipe, state.step, state.seconds, where, chosen)


def _loss_of(recipe: Recipe, hooks: Hooks) -> Loss:
    """The loss of a step, summed, for a trial."""

    def loss(model: nn.Module, batch: Batch, networks: Mapping[str, nn.Module]) -> Tensor:
        if hooks.losses is None:
            return LOSSES[recipe.loss](model(batch.input), batch.target)
        return torch.stack([t.float() for t in hooks.losses(model, batch, 0, **networks).values()]).sum()

    return loss


def _resume(state: State, folder: RunFolder, processes: Processes) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.resume:
        # read by one process, so that machines need not share a folder and all go on from the same checkpoint
        content = processes.told_by_first(folder.newest() if processes.first else None)
        if content:
            try:
                kept = torch.load(io.BytesIO(content), map_location=processes.device, weights_only=True)
            except Exception as error:  # a folder of somebody else; arbitrary bytes raise nearly anything
                raise ValueError(f"{folder.path} holds a checkpoint that cannot be read: {error}") from error
            state.restore(kept, folder.path)


class _Losses(nn.Module):
    """All networks and the loss as one module, so that DistributedDataParallel wraps them once and sees one forward."""

    def __init__(self, state: State, losses: Losses | None) -> None:
        super().__init__()
        self.model, self.networks = state.model, nn.ModuleDict(state.networks)
        self.losses, self.name = losses, state.recipe.loss
        # kept out of the module's children: its parameters are the model's
        self.__dict__["called"] = torch.compile(self.model) if state.recipe.compile else self.model

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        model = self.__dict__["called"]
        if self.losses is None:
            return {self.name: LOSSES[self.name](model(batch.input), batch.target)}
        return dict(self.losses(model, batch, step, **dict(self.networks.items())))


@dataclass
class _Loop:
    """Steps, rows of the log and checkpoints, until the end or a signal."""

    state: State
    hooks: Hooks
    journal: Journal
    processes: Processes
    validate: Score | None
    validate_every: int
    log_every: int

    def __post_init__(self) -> None:
        self.shard = self.processes.share(self.state.recipe.batch)
        self.losses: nn.Module = _Losses(self.state, self.hooks.losses)
        if self.processes.count > 1:
            self.losses = nn.parallel.DistributedDataParallel(self.losses)

    def run(self, stop: list[int], progress: bool | None, description: str) -> None:
        """Train to the end, unless a signal puts its number into ``stop``; raises what the signal stands for."""
        from tqdm.auto import tqdm

        state, last = self.state, self.state.recipe.iterations
        hidden = not self.processes.first or (None if progress is None else not progress)  # None: not on a terminal
        bar = tqdm(total=last, initial=state.step, desc=description, unit="step", disable=hidden)
        state.clock = time.monotonic()
        with bar:
            while not state.ended():
                self.one_step()
                bar.update()
                if state.step % self.log_every == 0 or self.validation_is_due() or state.step == last:
                    row = self.row().items()
                    bar.set_postfix({k: f"{v:.4g}" for k, v in row if k not in ("step", "lr", "seconds")})
                late, stopped = self.asked(stop)
                if late or stopped or state.ended():
                    self.journal.save()
                if stopped:
                    self.journal.say(f"stopped at step {state.step} by a signal; the same command goes on from here")
                    break
            else:
                self.journal.finish()
        if stop:
            raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(128 + stop[0])

    def one_step(self) -> None:
        state, recipe, step = self.state, self.state.recipe, self.state.step
        torch.manual_seed(stream_seed(recipe.seed, step, 2 + self.processes.rank))
        state.prepare()
        batch = state.data.batch(recipe.batch, stream_seed(recipe.seed, step), self.shard)
        if recipe.channels_last:
            batch = Batch(*(t.to(memory_format=torch.channels_last) for t in batch))
        if self.hooks.before_forward:
            self.hooks.before_forward(state.model, step)
        half = recipe.precision == "bfloat16"
        with torch.autocast(state.data.device.type, torch.bfloat16) if half else nullcontext():
            terms = self.losses(batch, step)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        total.backward()
        if self.hooks.before_step:
            self.hooks.before_step(state.model, step)
        state.update()
        kept = {"loss": total.detach()}
        if len(terms) > 1:
            kept |= {name: term.detach().float() for name, term in terms.items()}
        state.window.append(kept)

    def row(self) -> dict[str, float]:
        """A row of the log: the mean losses since the last one, what the hook tells, and a validation if it is time."""
        state = self.state
        row: dict[str, float] = {"step": state.step, **self.mean_losses()}
        row |= {"lr": state.learning_rate(state.step - 1), "seconds": state.elapsed()}
        if self.hooks.after_step:
            row |= dict(self.hooks.after_step(state.model, state.step) or {})
        if self.validation_is_due():
            row |= self.validation()
        state.rows.append(row)
        self.journal.write(row)
        return row

    def validation_is_due(self) -> bool:
        step, every = self.state.step, self.validate_every
        return self.validate is not None and (step == self.state.recipe.iterations or bool(every and step % every == 0))

    def validation(self) -> dict[str, float]:
        """The caller's score of the network, asked for in the first process and told to the others."""
        found: dict[str, float] = {}
        if self.processes.first and self.validate:
            network = self.state.current().eval()
            with torch.no_grad():
                found = {name: float(v) for name, v in self.validate(network).items()}
            network.train()
        found = self.processes.told_by_first(found)
        if self.state.recipe.schedule == "plateau":
            self.state.plateau.see(next(iter(found.values())))
        return found

    def mean_losses(self) -> dict[str, float]:
        """Means since the last row, over all processes. FloatingPointError: a loss or a weight is no number."""
        state, window = self.state, self.state.window
        losses = {name: self.processes.mean(torch.stack([kept[name] for kept in window])) for name in window[0]}
        wrong = (~losses["loss"].isfinite()).nonzero()
        if len(wrong):
            first = int(wrong[0])
            at = state.step - len(window) + first + 1
            what = f"the loss is {float(losses['loss'][first]):g} at step {at}"
        elif not state.weights_are_finite():
            what = f"weights are NaN or infinite after step {state.step}, with a loss of {losses['loss'][-1]:g}"
        else:
            window.clear()
            return {name: float(values.mean()) for name, values in losses.items()}
        sentence = f"{what}; {self.journal.last_good()}"
        self.journal.say(sentence)
        raise FloatingPointError(sentence)

    def asked(self, stop: list[int]) -> tuple[bool, bool]:
        """Whether it is time for a checkpoint, and whether to stop; processes agree on it every few steps."""
        if self.processes.count > 1 and self.state.step % AGREE_EVERY:
            return False, False
        late, number = self.processes.largest([float(self.journal.late()), float(stop[0]) if stop else 0.0])
        if number and not stop:
            stop.append(int(number))
        return bool(late), bool(number)
