"""Started by a test, with a folder and a count: a run that is killed so many times, two that are stopped by signals,
and one that nothing happens to; with ``spread`` also one in two processes. What it saw is in ``report.json``.

A process that has imported everything forks the runs, so that each takes a moment.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import spread
import torch
import torch.nn.functional as F
from tiny_runs import COMPLETE, DATA, SHORT, tiny
from torch import nn

from nsrlib.training import Hooks, RunFolder, fit, seeded


def losses(model, batch, step, dual):
    y = model(batch.input)
    return {"primal": F.l1_loss(y, batch.target), "dual": 0.1 * F.l1_loss(dual(y), batch.input)}


def run(folder: str, steps: int, pipe: int) -> None:
    """Train; the number of each step goes into the pipe before it is made."""
    with seeded(1):
        dual = nn.Conv2d(3, 3, 3, stride=2, padding=1)
    fit(
        tiny(),
        DATA,
        COMPLETE.replace(iterations=steps),
        hooks=Hooks(losses, {"dual": dual}, lambda net, step: os.write(pipe, step.to_bytes(4, "little")) and None),
        out=RunFolder(folder, checkpoint_seconds=0),
        log_every=7,
        progress=False,
    )


def launched(folder: str, steps: int) -> tuple[int, int, int]:
    """A child that trains: its process, the pipe to read, and its first step."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        run(folder, steps, write)
        os._exit(0)
    os.close(write)
    return child, read, int.from_bytes(os.read(read, 4), "little")


def ended(child: int, read: int) -> int:
    """How it ended: its exit status, or minus the signal's number."""
    while os.read(read, 65536):
        pass
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, kills: int) -> None:
    torch.set_num_threads(1)
    fit(tiny(), DATA, SHORT, progress=False)  # imports what PyTorch puts off until then
    steps, chance, starts, killed = 20 * kills, random.Random(5), [], 0
    while killed < kills:
        child, read, first = launched(f"{folder}/killed", steps)
        starts.append(first)
        for _ in range(chance.randint(0, 13)):
            os.read(read, 4)
        time.sleep(chance.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        killed += ended(child, read) == -signal.SIGKILL
    child, read, first = launched(f"{folder}/killed", steps)
    starts.append(first)
    assert ended(child, read) == 0
    status = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        child, read, _ = launched(f"{folder}/{number.name}", steps)
        os.kill(child, number)
        status[number.name] = ended(child, read)
    run(f"{folder}/whole", steps, os.open(os.devnull, os.O_WRONLY))
    Path(folder, "report.json").write_text(json.dumps({"starts": starts, "status": status}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    if "spread" in sys.argv:
        spread.in_two_forks(Path(sys.argv[1]))
