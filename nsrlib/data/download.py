"""Files of the manifest ``data/sources.csv``: found, verified, downloaded.

A file is looked for in this order, and every answer says where it came from:

1. ``NSRLIB_DATA``: one or more folders (joined by ``os.pathsep``), only ever read;
2. the per-user cache: ``NSRLIB_CACHE``, or the platform's cache folder;
3. its public address, pinned to a commit (``NSRLIB_OFFLINE=1`` forbids it).

It is compared with its sha256 when a process first opens it. A few files of no known hash are *unverified*: taken as
the pinned address gives them, and every tool says so.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import errno
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from nsrlib import files
from nsrlib.files import cache_dir


@dataclass(frozen=True)
class Source:
    """One public file: ``path`` is relative to a data root; ``bytes`` and ``sha256`` are 0 and empty where unknown."""

    dataset: str
    role: str
    path: str
    bytes: int
    sha256: str
    url: str
    licence: str
    note: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def verified(self) -> bool:
        """Whether there is a hash to compare with."""
        return bool(self.sha256)


@cache
def sources() -> Mapping[str, Source]:
    """All files of ``data/sources.csv``, by path."""
    table = files.ROOT / "data" / "sources.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: install nsrlib from its repository with 'pip install -e .'")
    with open(table, newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return {row["path"]: Source(**row | {"bytes": int(row["bytes"] or 0)}) for row in rows}


class DataUnavailable(FileNotFoundError):
    """Some files of a set are nowhere to be had: ``missing`` has their paths relative to a data root.

    ``looked``: place -> why it did not help. What stands before the first colon is short and names no path.
    """

    def __init__(self, message: str, missing: Sequence[str] = (), looked: Mapping[str, str] | None = None):
        super().__init__(message)
        self.missing, self.looked = tuple(missing), dict(looked or {})


def unavailable(what: str, missing: Sequence[str], looked: Mapping[str, str], advice: str) -> DataUnavailable:
    """The error that says what is missing, where it was looked for in vain, and what to do."""
    places = ", ".join(f"{place} ({reason})" for place, reason in looked.items())
    return DataUnavailable(f"{what}; looked in {places}; {advice}", missing, looked)


def unknown(kind: str, given: str, accepted: Iterable[str]) -> ValueError:
    """The error for a name that does not exist, with the nearest one that does, and all of them."""
    accepted = list(accepted)
    close = difflib.get_close_matches(given, accepted, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"unknown {kind} {given!r}: {hint}accepted: {', '.join(accepted)}")


class Found(NamedTuple):
    """A file and its origin: ``NSRLIB_DATA``, ``cache`` or ``download``."""

    path: Path
    origin: str


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def local_roots() -> list[tuple[str, Path]]:
    """Origin and folder of every place on this machine, in the order of search."""
    roots = []
    for entry in filter(None, os.environ.get("NSRLIB_DATA", "").split(os.pathsep)):
        folder = Path(entry).expanduser()
        if folder.is_dir():
            roots.append(("NSRLIB_DATA", folder))
        else:
            _warn_once(f"NSRLIB_DATA names {entry}, which is not a folder")
    return [*roots, ("cache", cache_dir())]


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def sha256_of(path: Path) -> str:
    """Hash of a file, computed once per process unless the file changes."""
    stat = path.stat()
    return _digest(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@cache
def _digest(path: str, size: int, mtime: int) -> str:
    return files.sha256_of(Path(path))


def _is_intact(path: Path, source: Source, origin: str) -> bool:
    """Whether ``path`` is the pinned file, or may be if there is no hash; warn once when it is another one."""
    try:
        if not os.path.isfile(path):
            return False
        if not source.verified:
            return size_of(path) > 0
        digest = sha256_of(path)
        problem = "" if digest == source.sha256 else f"has sha256 {digest}, expected {source.sha256}"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        _warn_once(f"{origin}: {path} {problem}; the file is ignored")
    return not problem


def find(wanted: Iterable[Source]) -> dict[str, Found]:
    """Those of ``wanted`` that are intact on this machine, by path."""
    roots, found = local_roots(), {}
    for source in wanted:
        for origin, root in roots:
            if _is_intact(root / source.path, source, origin):
                found[source.path] = Found(root / source.path, origin)
                break
    return found


@dataclass(frozen=True)
class DownloadPolicy:
    """How patient and how polite a download is. Times in seconds."""

    connect: float = 4.0  # to reach the server
    read: float = 20.0  # without a single byte
    attempts: int = 5  # per file, in a row, that bring nothing new
    backoff: float = 0.5  # before the second attempt; doubled with each one
    max_wait: float = 300.0  # in all, that servers may ask for by 429 and Retry-After
    parallel: int = 4  # files at a time
    slowest: float = 500.0  # bytes a second, over connect + read seconds; a slower transfer is a failed attempt
    unverified: int = 64 * 2**20  # bytes that a file without a known hash may have


def weights_path(filename: str, download: bool = True) -> Path:
    """The file of published weights ``filename``, for example ``net_g_BSRN_x4.pth``.

    Example:
        >>> weights_path("net_g_BSRN_x5.pth")
        Traceback (most recent call last):
        ValueError: unknown weights 'net_g_BSRN_x5.pth': did you mean 'net_g_BSRN_x4.pth'? accepted: ...
    """
    known = {path.removeprefix("weights/"): s for path, s in sources().items() if path.startswith("weights/")}
    if filename not in known:
        raise unknown("weights", filename, [name for name in known if "/" not in name])
    source = known[filename]
    advice = "run 'nsr data fetch weights' where there is a network, or set NSRLIB_DATA to a folder that holds it"
    return obtain([source], filename, advice, download=download)[source.path].path


def obtain(
    wanted: Sequence[Source],
    what: str,
    advice: str,
    *,
    download: bool = True,
    policy: DownloadPolicy = DownloadPolicy(),
    notes: Mapping[str, str] | None = None,
) -> dict[str, Found]:
    """Find ``wanted`` here or download it.

    ``what`` and ``advice`` begin and end the error message; ``notes`` has better reasons for some places.
    """
    found = find(wanted)
    missing = [source for source in wanted if source.path not in found]
    if not missing:
        return found
    looked = why_not_here(wanted) | dict(notes or {})
    if os.environ.get("NSRLIB_OFFLINE", "").lower() not in ("", "0", "false", "no"):
        looked["download"] = "NSRLIB_OFFLINE is set"
    elif not download:
        looked["download"] = "not asked for"
    else:
        failed = _Downloader(cache_dir(), policy).run(missing)
        found |= {s.path: Found(cache_dir() / s.path, "download") for s in missing if s.path not in failed}
        missing = [source for source in missing if source.path in failed]
        if not missing:
            return found
        looked["download"] = failed[missing[0].path]
    what = f"{what}: {len(missing)} of {len(wanted)} files missing, first {missing[0].path}"
    raise unavailable(what, [source.path for source in missing], looked, advice)


def why_not_here(wanted: Sequence[Source]) -> dict[str, str]:
    """Why the places on this machine were not enough, place by place."""
    reasons = {}
    for place in ("NSRLIB_DATA", "cache"):
        roots = [root for origin, root in local_roots() if origin == place]
        present = sum(any(os.path.isfile(root / source.path) for root in roots) for source in wanted)
        if present:
            reasons[place] = f"incomplete: {present} of {len(wanted)} files"
        elif not roots:
            reasons[place] = "not a folder" if os.environ.get("NSRLIB_DATA") else "not set"
        else:
            here = (path.name for root in roots if root.is_dir() for path in root.iterdir())
            empty = place == "cache" and not set(here) - {".lock"}
            reasons[place] = "empty" if empty else "nothing of it"
    return reasons


_unreachable: dict[str, str] = {}  # host -> why, so that only the first look-up of a process waits for a dead network


def forget() -> None:
    """Ask every host anew and give every warning again: an explicit request deserves a new look."""
    _unreachable.clear()
    _warn_once.cache_clear()


class _Refused(Exception):
    """This file cannot be had; the text says why."""


class _Busy(Exception):
    """The server asks to come back in ``args[0]`` seconds (0: it does not say when)."""


class _Flaky(Exception):
    """This attempt failed; the next one may not."""


class _Slow(Exception):
    """This attempt brought too little in its time."""


def _network_reason(error: Exception, policy: DownloadPolicy) -> str:
    """A requests exception in a few words, without its nested representation."""
    if isinstance(error, _Slow):
        return str(error)
    known = {
        "SSLError": "TLS certificate not accepted",
        "ProxyError": "proxy does not answer",
        "ConnectTimeout": f"no answer within {policy.connect:g} s",
        "Read timed out": f"no data for {policy.read:g} s",
        "Connection refused": "connection refused",
        "NameResolution": "name not resolved",
        "unreachable": "network unreachable",
        "IncompleteRead": "connection closed too early",
    }
    name = type(error).__name__
    return next((short for long, short in known.items() if long in f"{name}: {error}"), name)


def _seconds_to_wait(header: str) -> float:
    """What ``Retry-After`` asks for; 0 where it is neither a number nor a date, and never more than a year."""
    from urllib3.util import Retry

    try:
        return min(Retry().parse_retry_after(header), 365 * 24 * 3600)
    except Exception:  # an impossible date ends in any of several
        return 0


def _stay_safe(follow: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """A session's ``get_redirect_target`` that leaves neither the web nor https."""

    def target(response: Any) -> str | None:
        if not (address := follow(response)):
            return None
        before, after = (urlsplit(url).scheme for url in (response.url, urljoin(response.url, address)))
        if after != before and (before, after) != ("http", "https"):
            raise _Refused(f"it leads away from {before} to {files.one_line(address, 80)}: {response.url}")
        return address

    return target


def _disk_reason(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full: cannot write in {folder}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission: cannot write in {folder}; set NSRLIB_CACHE to another folder"
    return f"cannot write: {folder}: {error.strerror or error}"


class _Downloader:
    """Brings files into the cache, each under its final name only when size and sha256 are right.

    A ``.part`` file stays behind when anything goes wrong, and the next attempt goes on from there. A lock on the cache
    keeps two processes from writing one file and from doubling the load on a server.

    urllib3's ``Retry`` will not do: it lets one thread sleep, deaf to Ctrl-C, and resumes no body that broke off.
    """

    def __init__(self, cache: Path, policy: DownloadPolicy):
        import requests
        from tqdm.auto import tqdm

        self.cache, self.policy = cache, policy
        self.session = requests.Session()
        self.session.get_redirect_target = _stay_safe(self.session.get_redirect_target)  # type: ignore[assignment, method-assign]
        self.session.headers.update({"User-Agent": "nsrlib", "Accept-Encoding": "identity"})
        self.bar = tqdm(unit="B", unit_scale=True, desc="download", total=0, delay=0.2)
        self.lock = threading.Lock()
        self.counted: dict[str, int] = {}  # bytes of each file that the bar shows
        self.resume_at: dict[str, float] = {}  # host -> monotonic time before which it wants no request
        self.waited = 0.0  # seconds that servers asked for, in all
        self.halt = threading.Event()
        self.halt_reason = ""

    def run(self, wanted: Sequence[Source]) -> dict[str, str]:
        """Download ``wanted``; returns path -> reason for those that failed."""
        from filelock import FileLock, Timeout

        one_url = {source.host: source.url for source in wanted}
        dead = {host: reason for host, url in one_url.items() if (reason := self._why_unreachable(host, url))}
        failed = {source.path: dead[source.host] for source in wanted if source.host in dead}
        wanted = [source for source in wanted if source.host not in dead]
        try:
            if wanted:
                self.cache.mkdir(parents=True, exist_ok=True)
                with FileLock(self.cache / ".lock", timeout=self.policy.max_wait):
                    # another process may have brought some files while this one waited for the lock
                    rest = [s for s in wanted if not _is_intact(self.cache / s.path, s, "cache")]
                    failed.update(self._download_all(rest))
        except Timeout:
            failed.update({s.path: f"cache busy: another process downloads into {self.cache}" for s in wanted})
        except OSError as error:
            failed.update({s.path: _disk_reason(error, self.cache) for s in wanted})
        finally:
            self.bar.close()
            self.session.close()
        return failed

    def _why_unreachable(self, host: str, url: str) -> str:
        """Why the host of ``url`` cannot be reached, or an empty text. A dead host is asked once per process."""
        import requests

        if urlsplit(url).scheme not in ("http", "https"):
            return f"neither http nor https: {url}"
        if host in _unreachable:
            return _unreachable[host]
        patience = 1.25 * self.policy.connect
        reason = f"no answer within {patience:g} s"

        def ask() -> None:
            nonlocal reason
            try:
                self.session.head(url, timeout=self.policy.connect)
                reason = ""
            except requests.ReadTimeout:
                reason = ""  # slow, but there
            except requests.RequestException as error:
                reason = _network_reason(error, self.policy)

        # In a thread, because looking up a name and trying several addresses obey no timeout
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(patience)
        if reason:
            _unreachable[host] = f"no network: {host}: {reason}"
        return _unreachable.get(host, "")

    def _download_all(self, wanted: Sequence[Source]) -> dict[str, str]:
        failed = {}
        self.bar.total = sum(source.bytes for source in wanted)
        with ThreadPoolExecutor(self.policy.parallel) as pool:
            tasks = {pool.submit(self._download, source): source for source in wanted}
            try:
                for task in as_completed(tasks):
                    if reason := task.result():
                        failed[tasks[task].path] = reason
            except BaseException:  # Ctrl-C: the other threads stop at their next chunk
                self._stop("interrupted")
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def _download(self, source: Source) -> str:
        """Download one file; returns why it failed, or an empty text."""
        import requests

        policy, host = self.policy, source.host
        target = self.cache / source.path
        part = target.with_name(target.name + ".part")
        most = failures = refusals = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            while True:
                self._sleep(self.resume_at.get(host, 0) - time.monotonic())
                try:
                    in_one_piece = self._transfer(source, part)
                    self._publish(source, part, target, in_one_piece)
                    return ""
                except _Busy as busy:
                    # not less than the back-off, so that "Retry-After: 0" for ever ends too
                    self._postpone(host, max(busy.args[0], policy.backoff * 2**refusals))
                    refusals += 1
                except (_Flaky, _Slow, requests.RequestException) as error:
                    size = size_of(part)
                    failures = 1 if size > most and not isinstance(error, _Slow) else failures + 1
                    most = max(most, size)
                    if failures >= policy.attempts:
                        if isinstance(error, _Flaky):
                            return f"{error}: {source.url}"
                        reason = f"connection lost: {host}: {_network_reason(error, policy)}"
                        if isinstance(error, _Slow | requests.ConnectionError | requests.Timeout):
                            _unreachable[host] = reason
                            self._stop(reason)  # the next file would only wait as long
                        return reason
                    self._sleep(policy.backoff * 2 ** (failures - 1))
        except _Refused as refused:
            return str(refused)
        except OSError as error:  # after requests' own exceptions, which are OSErrors too
            self._stop(_disk_reason(error, self.cache))
            return self.halt_reason

    def _transfer(self, source: Source, part: Path) -> bool:
        """One request, continuing ``part``. Returns whether the file now comes from this response alone."""
        have = size_of(part)
        if have and have == source.bytes:
            return False
        if have > source.bytes:  # or of unknown origin: without a hash, pieces of two files would go unnoticed
            part.unlink()
            have = 0
        with contextlib.closing(self._receive(source.url, {"Range": f"bytes={have}-"} if have else {})) as pieces:
            response = next(pieces)
            self._check_status(response, source, part, have)
            expected = source.bytes if source.verified else self._promised(response, source)
            resumed = response.status_code == 206
            size = have if resumed else 0
            with open(part, "ab" if resumed else "wb") as file:
                for piece in pieces:
                    file.write(piece)
                    size += len(piece)
                    self._count(source, size)
                    if size > expected:
                        break
        if size < expected:
            raise _Flaky(f"got {size} of {expected} bytes")
        return not resumed

    def _receive(self, url: str, headers: Mapping[str, str]) -> Generator[Any, None, None]:
        """The response, then its body in pieces; read in a thread of its own, which may be left alone.

        A name that is looked up, several addresses, headers and bodies that drip obey no timeout and no Ctrl-C.
        """
        policy, arrived, gone = self.policy, queue.Queue[Any](8), threading.Event()

        def put(what: Any) -> None:
            while not gone.is_set():
                with contextlib.suppress(queue.Full):
                    return arrived.put(what, timeout=0.1)
            raise _Refused("nobody waits for it")

        def read() -> None:
            with contextlib.suppress(_Refused):
                try:
                    timeout = (policy.connect, policy.read)
                    with self.session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                        put(response)
                        # small pieces: what is left of one when the connection breaks is lost
                        for piece in response.iter_content(8192):
                            put(piece)
                    put(None)
                except Exception as error:
                    put(error)

        threading.Thread(target=read, daemon=True).start()
        patience = policy.connect + policy.read
        since, got = time.monotonic(), 0
        try:
            while True:
                self._sleep(0)
                if time.monotonic() - since > patience:
                    if got < policy.slowest * patience:
                        raise _Slow(f"fewer than {policy.slowest:g} bytes a second, for {patience:g} s")
                    since, got = time.monotonic(), 0
                try:
                    what = arrived.get(timeout=0.1)
                except queue.Empty:
                    continue
                if what is None:
                    return
                if isinstance(what, Exception):
                    raise what
                got += len(what) if isinstance(what, bytes) else 0
                yield what
        finally:
            gone.set()

    def _promised(self, response: Any, source: Source) -> int:
        """Length of a file without a hash: only the server's word tells a whole one from a part."""
        length, coding = (response.headers.get(f"Content-{name}", "") for name in ("Length", "Encoding"))
        if not length.isdecimal() or not length.strip("0") or coding not in ("", "identity"):
            raise _Refused(f"no hash is known, and the server does not say how long it is: {source.url}")
        if len(length) > 15 or int(length) > self.policy.unverified:
            most = f"at most {self.policy.unverified} are taken"
            raise _Refused(f"no hash is known, and {length[:16]} bytes are too many, {most}: {source.url}")
        return int(length)

    @staticmethod
    def _check_status(response: Any, source: Source, part: Path, have: int) -> None:
        status, headers = response.status_code, response.headers
        if status == 429 or (status == 503 and "Retry-After" in headers):
            raise _Busy(_seconds_to_wait(headers.get("Retry-After", "0")))
        if status == 416 or (status == 206 and not headers.get("Content-Range", "").startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            raise _Flaky("the server misunderstood a request to resume")
        if status >= 500:
            raise _Flaky(f"HTTP {status} {files.one_line(response.reason, 80)}")
        if status not in (200, 206):
            raise _Refused(f"HTTP {status} {files.one_line(response.reason, 80)}: {source.url}")

    def _publish(self, source: Source, part: Path, target: Path, in_one_piece: bool) -> None:
        """Give ``part`` its final name if it is the pinned file; throw it away if it can never become that."""
        if not source.verified:
            os.replace(part, target)
            _warn_once(f"{source.path} is unverified: no hash of it is known; its sha256 is {sha256_of(target)}")
            return
        if size_of(part) > source.bytes:
            problem = f"longer than the expected {source.bytes} bytes"
        elif (digest := sha256_of(part)) != source.sha256:
            problem = f"has sha256 {digest}, expected {source.sha256}"
        else:
            os.replace(part, target)
            self._count(source, source.bytes)
            return
        part.unlink()
        self._count(source, 0)
        # an old or resumed part may be to blame, so a file in several pieces gets another chance
        raise _Refused(f"wrong file: {source.url} {problem}") if in_one_piece else _Flaky(f"wrong file: {problem}")

    def _stop(self, reason: str) -> None:
        self.halt_reason = self.halt_reason or reason
        self.halt.set()

    def _sleep(self, seconds: float) -> None:
        """Wait, or give up at once when everything is to stop."""
        if self.halt.wait(max(seconds, 0)):
            raise _Refused(self.halt_reason)

    def _postpone(self, host: str, seconds: float) -> None:
        """Send nothing to ``host`` for ``seconds``; all threads obey."""
        with self.lock:
            now = time.monotonic()
            free_at = max(now, self.resume_at.get(host, 0))
            self.resume_at[host] = max(free_at, now + seconds)
            self.waited += self.resume_at[host] - free_at
            if self.waited > self.policy.max_wait:
                self._stop(f"rate limit: {host} asks to wait {seconds:g} s, the limit is {self.policy.max_wait:g} s")
            self.bar.set_postfix_str(f"{host} asks to wait {seconds:g} s")

    def _count(self, source: Source, size: int) -> None:
        """Let the bar show ``size`` bytes of a file."""
        with self.lock:
            self.bar.update(size - self.counted.get(source.path, 0))
            self.counted[source.path] = size
