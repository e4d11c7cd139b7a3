"""Files that are never half written, folders in which one process works, and where a number comes from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent

ROOT = _HERE.parent if (_HERE.parent / "data" / "published").is_dir() else _HERE / "resources"
"""The folder that holds ``data`` and ``notebooks``: the repository, or ``resources`` of an installed package."""

_PACKAGES = ("torch", "triton", "numpy", "pandas", "pillow", "scikit-image", "matplotlib", "papermill")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers may depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor as the system names it, with the number of its cores."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def device_name() -> str:
    """The graphics card if there is one, else the processor."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def commit(repository: Path = ROOT) -> str:
    """Short hash of the checked-out commit, ``-dirty`` if files have changed since, ``unknown`` outside git."""
    if not (repository / ".git").exists():  # git would answer for a repository further up, of somebody else
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_commit(repository: Path = ROOT) -> str:
    """As :func:`commit`, in twelve digits; stored results that have changed do not count."""
    if not in_checkout(repository):
        return "unknown"

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=repository, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":(exclude)data/results")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def in_checkout(folder: Path) -> bool:
    """Whether a folder is a git checkout, or a Python package at the top of one.

    Further up git would answer for a repository of somebody else.
    """
    places = [folder, folder.parent] if (folder / "__init__.py").is_file() else [folder]
    return any((place / ".git").exists() for place in places)


def one_line(text: str, limit: int = 300) -> str:
    """``text`` without line breaks and terminal colours, cut to ``limit`` characters."""
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def home() -> Path | None:
    """The user's home; None where there is none, as for a user number without a name in a container."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_dir() -> Path:
    """The per-user folder for downloads: ``NSRLIB_CACHE``, or what the platform has for caches; without a home, a
    temporary one."""
    if folder := os.environ.get("NSRLIB_CACHE"):
        return Path(folder).expanduser()
    # the folders of platformdirs, without a dependency that many machines lack for these lines
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "nsrlib" / "nsrlib" / "Cache"
    asked, usual = os.environ.get("XDG_CACHE_HOME", ""), "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    if home() is None and not os.path.isabs(asked):
        return Path(tempfile.gettempdir()) / f"nsrlib-{os.getuid()}"
    return Path(asked if os.path.isabs(asked) else usual).expanduser() / "nsrlib"


def borrow_home() -> None:
    """Let a temporary folder be ``HOME`` where there is none to write to: Jupyter's kernels do not start without.

    So it is for a user number without a name, in a container. The folder is the same every time.
    """
    own = home()
    if own and (os.access(own, os.W_OK) or (own / ".cache").is_dir()):
        return
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"nsrlib-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != user:
        folder = Path(tempfile.mkdtemp(prefix="nsrlib-"))
    os.environ["HOME"] = str(folder)
    os.environ.setdefault("USER", str(user))  # else getpass asks for the name


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the system name the file: a disk that is full does not say for which."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft to write to, which takes the place of ``path`` at the end; gone if anything fails.

    Readers see the old file or the new one, never half of it. An ``OSError`` names the file.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named(path):
            yield draft
            os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


if sys.platform == "win32":
    import msvcrt

    def _seize(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _seize(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}


@contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Work alone in a folder that is there. The system frees it when this process ends, however that happens.

    A file system that has no locks gets a warning, and the work goes on.

    Args:
        what: is done in it, a word for file names and messages: ``sweep``. Different words do not exclude each other.

    Raises:
        FileExistsError: another process is at it; says which.

    Example:
        >>> with lock(Path("."), "training"), lock(Path("."), "training"):
        ...     pass
        Traceback (most recent call last):
        FileExistsError: another training is at work in . (process ...): wait for it, or choose another folder
    """
    path, owner = folder / f"{what}.lock", folder / f".{what}.owner"
    fd = _open_locked(path, owner, what)
    try:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        with suppress(OSError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        os.close(fd)


def _open_locked(path: Path, owner: Path, what: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _seize(fd)
        except OSError as error:
            if error.errno in _HELD:
                os.close(fd)
                who = owner.read_text(encoding="utf-8") if owner.exists() else "unknown"
                raise FileExistsError(
                    f"another {what} is at work in {path.parent} ({who}): wait for it, or choose another folder"
                ) from None
            about = f"no locks in {path.parent} ({error.strerror}): see to it that no other {what} works there"
            warnings.warn(about, stacklevel=5)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # whoever held it has removed it since it was opened


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False, default=_plain)
        file.write("\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # numpy scalars
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
