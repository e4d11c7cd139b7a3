"""Small notebooks that the tests of this folder run."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

ROW = {"table": "2", "cell": 3, "row": "BSRN", "column": "Set5", "scale": 4, "metric": "PSNR", "how": "weights"}
LEDGER = {
    "paper": "good",
    "profile": "quick",
    "rows": [
        ROW
        | {"id": "a", "cell": 3, "published": 32.3, "ours": 32.30401, "difference": 0.00401, "verdict": "reproduced"},
        ROW | {"id": "b", "published": 30.0, "ours": 29.5, "difference": -0.5, "verdict": "differs"},
        {"id": "<script>alert(1)</script>", "how": "open", "verdict": "open"},
    ],
    "provenance": {
        "device": "cpu",
        "threads": 1,
        "data": {"set5 x4": {"origin": "/srv/alice/secret/set5", "sha256": "ab" * 32}},
    },
}
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360f8cfc00000030101002706f4030000000049454e44ae426082"
    )
).decode()

GOOD = [
    "# A good notebook",
    'profile = "quick"\nout_dir = ""\nsteps = 3\nrate = 0.5\nname = "x"',
    "## Claim 1: a *picture* is shown",
    f"""
import base64, json, os
from pathlib import Path
from IPython.display import Image, display
if out_dir:
    Path(out_dir, "good.json").write_text(json.dumps({LEDGER!r}))
print("at", Path.cwd() / out_dir, "with", steps, "threads", os.environ["OMP_NUM_THREADS"])
display(Image(base64.b64decode({PIXEL!r})))
""",
]
PARAMETERS = 'profile = "quick"\nout_dir = ""'
FAILS = ["# Fails", PARAMETERS, "## Claim 7", "# the line\nraise ArithmeticError('two\\nlines')", "raise SystemError"]
DIES = ["# Dies", PARAMETERS, "## Claim 8", "import os\nos._exit(3)"]
SLEEPS = [
    "# Sleeps",
    PARAMETERS,
    "import time, os\nopen(out_dir + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(3600)",
]

POINT = 'profile = "quick"\nout_dir = ""\nscale = 2\nseed = 0\nscales = "2,3"\nmode = "good"\nmarks = ""'
TINY = [
    "# A tiny notebook",
    POINT,
    """
import json, os, time, uuid
from pathlib import Path
name = f"{scale}-{seed}-{os.getpid()}"
if marks:
    Path(marks, f"{name}.begun").touch()
while mode == "waits" and seed and not Path(marks, "go").exists():
    time.sleep(0.1)
row = {"id": "a", "table": "2", "row": "BSRN", "column": "Set5", "scale": scale, "metric": "psnr", "unit": "dB"}
row |= {"how": "weights", "published": "32.30", "ours": 30 + scale + seed / 8, "verdict": "reproduced"}
Path(out_dir, "tiny.json").write_text(json.dumps({"paper": "tiny", "rows": [row]}))
if marks:
    Path(marks, f"{name}.done").touch()
""",
]


def write_notebook(path: Path, cells: list[str]) -> None:
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    for text in cells:
        prose = text.startswith(("# A", "# F", "# D", "# S", "## "))
        cell = nbformat.v4.new_markdown_cell(text) if prose else nbformat.v4.new_code_cell(text.strip())
        if text.startswith("profile"):
            cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    path.parent.mkdir(exist_ok=True, parents=True)
    nbformat.write(notebook, path)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds: float = 900) -> None:
    """Return as soon as ``condition()`` holds; the time is so long that no busy machine reaches it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
