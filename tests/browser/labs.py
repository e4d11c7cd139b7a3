"""A JupyterLab server of its own, with settings of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = Path(os.environ.get("NSR_ARTEFACTS") or ROOT / "runs" / "browser")


def wait_for(what: Callable[[], object], seconds: float, why: str | Callable[[], str]) -> object:
    """The first true answer of ``what``, or a failure that says ``why``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    pytest.fail(f"after {seconds:.0f} s: {why() if callable(why) else why}")


class Lab:
    """A running JupyterLab: its address, and the folder that it shows."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = home / "config"
        settings = config / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
        settings.mkdir(parents=True)
        # Every cell is in the page, also those that are scrolled out of sight.
        (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
        (config / "labconfig").mkdir()
        disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (config / "labconfig" / "page_config.json").write_text(json.dumps(disabled))
        environment = os.environ | {
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}"]
        command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}"]
        command += [f"--ServerApp.root_dir={folder}", "--allow-root"]
        self.log = home / "lab.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def ask(self, path: str):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}?token={self.token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def is_up(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"JupyterLab ended at once: {self.log.read_text()[-1500:]}")
        return self.ask("api/status") is not None

    def address(self, notebook: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)  # the server and, as it goes, its kernels
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
