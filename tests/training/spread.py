"""Started by a test, with a folder and by ``torchrun``: trainings in several processes, each of which reports."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
from tiny_runs import DATA, PLAIN, plain

from nsrlib.training import Hooks, RunFolder, TrainingResult, fit


def report(folder: Path) -> None:
    rank, validated = int(os.environ["RANK"]), []

    def validate(net):
        validated.append(net)
        return {"q": float(next(net.parameters()).detach().sum())}

    def run(recipe=PLAIN, **more) -> TrainingResult:
        return fit(plain(), DATA, recipe, validate=validate, validate_every=8, log_every=1, progress=False, **more)

    whole = run()
    found = {"loss": list(whole.history["loss"]), "q": list(whole.history["q"].dropna())}
    try:
        run(PLAIN.replace(batch=5))
    except ValueError as error:
        found["error"] = str(error)

    def stopped(net, step):
        # one process is told to stop; both do, after the same step, and go on from the same checkpoint
        if (rank, step) == (1, 12):
            os.kill(os.getpid(), signal.SIGTERM)

    out, first = folder / "run", []
    try:
        run(out=RunFolder(out, checkpoint_seconds=1e-9), hooks=Hooks(before_forward=stopped))
    except SystemExit as error:
        found["code"] = error.code
    found["saved"] = sorted(path.name[11:19] for path in out.glob("checkpoint*"))
    resumed = run(out=out, hooks=Hooks(before_forward=lambda net, step: first.append(step)))
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    found |= {
        "resumed": first[0],
        "same": all(torch.equal(a, b) for a, b in pairs),
        "curve": list(resumed.history["loss"]),
        "validated": len(validated),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def in_two_forks(folder: Path) -> None:
    """The same in two children, with the environment that ``torchrun`` would give them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    children = []
    for rank in "01":
        os.environ["RANK"] = rank
        children.append(os.fork())
        if not children[-1]:
            report(folder)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(Path(sys.argv[1]))
