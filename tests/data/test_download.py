"""Downloads against a local server that truncates, stalls, drips, refuses, lies and misunderstands.

This file is long because one server with all its faults serves every test.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nsrlib.data import catalogue, download
from nsrlib.data.download import DataUnavailable, DownloadPolicy, Source, obtain

# patient enough for a machine that is busy with other things; few attempts, short pauses
FAST = DownloadPolicy(connect=20, read=20, attempts=3, backoff=0.01, max_wait=60)
BODY = np.random.default_rng(0).bytes(100_000)
CHUNK = 8192  # what arrives in units of this is kept when a connection breaks


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``plans[path]`` lists what to do with the coming requests, one each, then serve well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plans: dict[str, list] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range header
        self.stop_stalling = threading.Event()
        self.lock = threading.Lock()
        self.four = threading.Barrier(4, timeout=30)
        self.busy = self.most_busy = self.probes = 0

    def source(self, path: str, body: bytes = BODY, *, plan: list | None = None, verified: bool = True) -> Source:
        self.files[path], self.plans[path] = body, plan or []
        url = f"http://127.0.0.1:{self.server_port}/{path}"
        size, digest = (len(body), hashlib.sha256(body).hexdigest()) if verified else (0, "")
        return Source("Toy", "test", path, size, digest, url, "none")

    def ranges(self, path: str) -> list[str | None]:
        return [asked for p, asked in self.requests if p == path]

    def handle_error(self, request, client_address):
        pass  # clients hang up on purpose here


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.server.probes += 1
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        server, path = self.server, self.path[1:]
        with server.lock:
            server.requests.append((path, self.headers["Range"]))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            plan = server.plans[path].pop(0) if server.plans[path] else ("serve",)
        if plan[0] == "all four at once":
            server.four.wait()
            time.sleep(0.1)  # a fifth would come now
            plan = plan[1:]
        with server.lock:  # before the answer: a client that has all of it may already ask for the next file
            server.busy -= 1
        self.answer(server.files[path], *plan)

    def drip(self, content: bytes):
        """A byte now and then, so that no single read waits long."""
        self.flush_headers()
        for byte in content:
            if self.server.stop_stalling.wait(0.05):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def answer(self, body: bytes, what: str, *args):
        if what == "status":
            status, headers = args[0], args[1] if len(args) > 1 else {}
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value() if callable(value) else value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if self.headers["Range"] and what != "ignore range":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if what == "wrong bytes":
            body = bytes(len(body))
        if what == "longer":
            body += b"more"
        if what == "drip headers":
            self.drip(b"X-More: and more\r\n" * 1000)
        if what != "no length":
            self.send_header("Content-Length", args[0] if what == "claim" else str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if what == "drip":
            return self.drip(body)
        if what == "slowly":
            time.sleep(args[0])
        self.wfile.write(body[: args[0]] if what in ("truncate", "stall") else body)
        if what == "stall":
            self.wfile.flush()
            self.server.stop_stalling.wait(20)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.stop_stalling.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, no other data, no memory of earlier tests."""
    for name in ("NSRLIB_DATA", "NSRLIB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NSRLIB_CACHE", str(tmp_path / "cache"))
    download.forget()
    return tmp_path / "cache"


def get(*files: Source, policy: DownloadPolicy = FAST, **kwargs) -> dict[str, Path]:
    found = obtain(files, "get", "try again", policy=policy, **kwargs)
    return {s.path: found[s.path].path for s in files}


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def test_files_arrive_in_the_cache_and_are_not_asked_for_again(server, cache):
    a, b = server.source("Toy/a.png"), server.source("Toy/deep/b.png", b"x")
    files = get(a, b)
    assert list(files) == ["Toy/a.png", "Toy/deep/b.png"]
    assert files["Toy/a.png"] == cache / "Toy/a.png"
    assert files["Toy/a.png"].read_bytes() == BODY
    assert left_in(cache) == ["Toy/a.png", "Toy/deep/b.png"]
    get(a, b)
    assert len(server.requests) == 2


def test_a_truncated_download_is_resumed_where_it_broke_off(server):
    file = server.source("a.png", plan=[("truncate", 4 * CHUNK), ("truncate", 2 * CHUNK)])
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.ranges("a.png") == [None, f"bytes={4 * CHUNK}-", f"bytes={6 * CHUNK}-"]


def test_a_download_that_keeps_growing_is_not_given_up_after_the_usual_attempts(server):
    file = server.source("a.png", plan=[("truncate", CHUNK)] * 6)
    assert get(file)["a.png"].read_bytes() == BODY


def test_a_stalled_download_is_resumed_after_the_read_timeout(server):
    file = server.source("a.png", plan=[("stall", 3 * CHUNK)])
    start = time.monotonic()
    assert get(file, policy=DownloadPolicy(connect=20, read=1))["a.png"].read_bytes() == BODY
    assert 1 <= time.monotonic() - start < 15  # the server would stall for 20 seconds
    assert server.ranges("a.png")[1] == f"bytes={3 * CHUNK}-"


def test_a_server_that_stalls_for_ever_fails_with_one_line_and_stops_the_rest(server, cache):
    files = [server.source(f"{i}.png", plan=[("stall", 0)] * 20) for i in range(6)]
    with pytest.raises(DataUnavailable, match=r"connection lost: 127.0.0.1:\d+: no data for 0.15 s") as caught:
        get(*files, policy=DownloadPolicy(connect=20, read=0.15, attempts=3, backoff=0.01))
    assert "\n" not in str(caught.value)
    assert not [name for name in left_in(cache) if not name.endswith(".part")]


IMPATIENT = DownloadPolicy(connect=0.6, read=0.6, attempts=3, backoff=0.01)


@pytest.mark.parametrize("how", ["drip", "drip headers"])
def test_a_server_that_drips_is_given_up_and_stops_the_rest(server, cache, how):
    files = [server.source(f"{i}.png", plan=[(how,)] * 20) for i in range(6)]
    start = time.monotonic()
    with pytest.raises(
        DataUnavailable, match=r"connection lost: 127.0.0.1:\d+: fewer than 500 bytes a second, for 1.2"
    ):
        get(*files, policy=IMPATIENT)
    assert time.monotonic() - start < 20
    assert not [name for name in left_in(cache) if not name.endswith(".part")]


def test_an_attempt_that_drips_is_followed_by_another(server):
    file = server.source("a.png", plan=[("drip",), ("drip headers",)])
    assert get(file, policy=IMPATIENT)["a.png"].read_bytes() == BODY
    assert len(server.requests) == 3


@pytest.mark.parametrize("how", [("drip",), ("drip headers",), ("stall", 3 * CHUNK)], ids=lambda how: how[0])
def test_ctrl_c_ends_a_download_at_once(server, cache, how):
    file = server.source("a.png", plan=[how])
    source = f"Source(*{tuple(vars(file).values())!r})"
    code = f"from nsrlib.data.download import Source, obtain; obtain([{source}], 'get', 'try again')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 8  # a read waits 20 s, the headers or the body would take an hour
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not [name for name in left_in(cache) if not name.endswith(".part")]


def test_a_server_that_ignores_range_starts_over(server):
    file = server.source("a.png", plan=[("truncate", 4 * CHUNK), ("ignore range",)])
    assert get(file)["a.png"].read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_server_that_cannot_serve_the_range_starts_over(server):
    file = server.source("a.png", plan=[("truncate", 4 * CHUNK), ("status", 416)])
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.ranges("a.png")[2] is None


def test_a_damaged_part_of_an_earlier_run_is_thrown_away(server, cache):
    file = server.source("a.png")
    cache.mkdir()
    (cache / "a.png.part").write_bytes(b"rubbish")
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.ranges("a.png") == ["bytes=7-", None]


def test_a_part_that_is_too_long_is_thrown_away(server, cache):
    file = server.source("a.png", b"short")
    cache.mkdir()
    (cache / "a.png.part").write_bytes(BODY)
    assert get(file)["a.png"].read_bytes() == b"short"


def test_a_complete_part_needs_no_transfer(server, cache):
    file = server.source("a.png")
    cache.mkdir()
    (cache / "a.png.part").write_bytes(BODY)
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [(429, "1"), (503, lambda: formatdate(time.time() + 2, usegmt=True))],
    ids=["429 in seconds", "503 by HTTP date"],
)
def test_retry_after_is_honoured(server, status, retry_after):
    file = server.source("a.png", plan=[("status", status, {"Retry-After": retry_after})])
    start = time.monotonic()
    assert get(file)["a.png"].read_bytes() == BODY
    assert time.monotonic() - start >= 0.95


def test_all_files_of_a_host_wait_when_one_is_told_to(server):
    refuse = ("all four at once", "status", 429, {"Retry-After": "3"})
    files = [server.source(f"{i}.png", plan=[refuse]) for i in range(4)]
    start = time.monotonic()
    get(*files)
    assert 2.95 <= time.monotonic() - start < 11  # three seconds together, not three each


def test_a_server_that_asks_to_wait_too_long_is_left_alone(server):
    file = server.source("a.png", plan=[("status", 429, {"Retry-After": "3600"})])
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"rate limit: 127.0.0.1:\d+ asks to wait 3600 s, the limit is 60 s"):
        get(file)
    assert time.monotonic() - start < 30
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "asked",
    ["-5", "9" * 30, "9" * 400, "9" * 5000, "inf", "1e999", "Fri, 31 Dec 99999 23:59:59 GMT", "Mon, 99 Foo 1 9:9:9"],
    ids=lambda text: text[:9] + f" {len(text)}",
)
def test_an_absurd_retry_after_is_no_more_than_a_refusal(server, asked):
    file = server.source("a.png", plan=[("status", 429, {"Retry-After": asked})])
    try:
        assert get(file)["a.png"].read_bytes() == BODY
    except DataUnavailable as error:
        assert "rate limit" in str(error)  # noqa: PT017
    assert len(server.requests) <= 2


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "soon"}], ids=str)
def test_a_server_that_never_stops_refusing_is_given_up(server, headers):
    file = server.source("a.png", plan=[("status", 429, headers)] * 100)
    with pytest.raises(DataUnavailable, match="rate limit"):
        get(file, policy=DownloadPolicy(connect=20, read=20, backoff=0.05, max_wait=0.5))
    assert len(server.requests) < 8  # backs off


def test_server_errors_are_tried_again_and_then_reported(server):
    file = server.source("a.png", plan=[("status", 500), ("status", 502)])
    assert get(file)["a.png"].read_bytes() == BODY
    broken = server.source("b.png", plan=[("status", 500)] * 9)
    with pytest.raises(DataUnavailable, match=r"HTTP 500 Internal Server Error: http://127.0.0.1:\d+/b.png"):
        get(broken)
    assert len(server.ranges("b.png")) == FAST.attempts


def test_a_missing_file_is_reported_with_its_address_and_the_others_arrive(server, cache):
    files = [server.source("gone.png", plan=[("status", 404)])] + [server.source(f"{i}.png") for i in range(3)]
    with pytest.raises(DataUnavailable, match=r"HTTP 404 Not Found: http://127.0.0.1:\d+/gone.png") as caught:
        get(*files)
    assert "1 of 4 files missing, first gone.png" in str(caught.value)
    assert caught.value.missing == ("gone.png",)
    assert caught.value.looked["download"].split(":")[0] == "HTTP 404 Not Found"
    assert left_in(cache) == ["0.png", "1.png", "2.png"]
    assert len(server.ranges("gone.png")) == 1


def test_wrong_bytes_are_refused_with_both_hashes(server, cache):
    file = server.source("a.png", plan=[("wrong bytes",)] * 9)
    with pytest.raises(DataUnavailable) as caught:
        get(file)
    assert file.sha256 in str(caught.value)
    assert hashlib.sha256(bytes(len(BODY))).hexdigest() in str(caught.value)
    assert left_in(cache) == []


def test_a_longer_file_is_refused(server, cache):
    with pytest.raises(DataUnavailable, match="longer than the expected 100000 bytes"):
        get(server.source("a.png", plan=[("longer",)] * 9))
    assert left_in(cache) == []


def test_a_file_without_a_known_hash_is_taken_as_it_is_and_its_hash_told(server, cache):
    file = server.source("a.ckpt", verified=False)
    with pytest.warns(UserWarning, match=f"a.ckpt is unverified: .* its sha256 is {hashlib.sha256(BODY).hexdigest()}"):
        assert get(file)["a.ckpt"].read_bytes() == BODY
    assert get(file) == {"a.ckpt": cache / "a.ckpt"}
    assert server.ranges("a.ckpt") == [None]


def test_a_file_without_a_known_hash_is_never_pieced_together(server, cache):
    file = server.source("a.ckpt", plan=[("truncate", 3 * CHUNK)] * FAST.attempts, verified=False)
    with pytest.raises(DataUnavailable, match=r"connection lost|got \d+ of 100000 bytes"):
        get(file)
    assert left_in(cache) == ["a.ckpt.part"]
    download.forget()
    with pytest.warns(UserWarning, match="a.ckpt is unverified"):
        assert get(file)["a.ckpt"].read_bytes() == BODY
    assert set(server.ranges("a.ckpt")) == {None}


@pytest.mark.parametrize(("body", "plan"), [(BODY, [("no length",)]), (b"", [])], ids=["no length", "empty"])
def test_a_file_without_hash_and_length_is_refused(server, cache, body, plan):
    file = server.source("a.ckpt", body, plan=plan, verified=False)
    with pytest.raises(DataUnavailable, match="no hash is known, and the server does not say how long it is"):
        get(file)
    assert not left_in(cache)


@pytest.mark.parametrize("length", ["67108865", "9" * 20, "9" * 5000], ids=len)
def test_a_file_without_hash_that_is_too_large_is_refused(server, cache, length):
    file = server.source("a.ckpt", plan=[("claim", length)], verified=False)
    with pytest.raises(DataUnavailable, match=rf"{length[:16]} bytes are too many, at most 67108864 are taken: http"):
        get(file)
    assert not left_in(cache)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher:x"])
def test_a_redirection_out_of_the_web_is_not_followed(server, cache, address):
    file = server.source("a.png", plan=[("status", 302, {"Location": address})])
    with pytest.raises(DataUnavailable, match=f"it leads away from http to {address}: http://127.0.0.1"):
        get(file)
    assert not left_in(cache)


@pytest.mark.parametrize("secure", [True, False])
def test_https_is_never_left_for_http(server, monkeypatch, secure):
    """Here an address that begins with https is asked for without its s: the server has no certificate."""
    from requests.adapters import HTTPAdapter

    send, asked = HTTPAdapter.send, []

    def plainly(self, request, **kwargs):
        address = request.url
        asked.append(address.partition(":")[0])
        request.url = address.replace("https:", "http:")
        response = send(self, request, **kwargs)
        response.url = request.url = address
        return response

    monkeypatch.setattr(HTTPAdapter, "send", plainly)
    there = server.source("there.png")
    other = there.url if secure else there.url.replace("http:", "https:")
    file = server.source("a.png", plan=[("status", 301, {"Location": other})])
    if not secure:
        assert get(file)["a.png"].read_bytes() == BODY
        assert asked == ["http", "http", "https"]
        return
    file = dataclasses.replace(file, url=file.url.replace("http:", "https:"))
    with pytest.raises(DataUnavailable, match=f"it leads away from https to {other}: https://127.0.0.1"):
        get(file)
    assert asked == ["https", "https"]
    assert server.ranges("there.png") == []


def test_an_address_that_is_not_of_the_web_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(BODY)
    file = Source("Toy", "test", "a.png", 0, "", f"file://{tmp_path}/a.png", "none")
    with pytest.raises(DataUnavailable, match="neither http nor https: file://"):
        get(file)


def test_few_files_are_asked_for_at_a_time(server):
    get(*[server.source(f"{i}.png", b"x", plan=[("all four at once", "serve")]) for i in range(20)])
    assert server.most_busy == 4
    assert server.probes == 1


def test_two_downloads_into_one_cache_do_not_transfer_a_file_twice(server):
    file = server.source("a.png", plan=[("slowly", 0.2)])
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(get, file) for _ in range(2)]
    assert answers[0].result() == answers[1].result()
    assert len(server.requests) == 1


def test_a_killed_download_leaves_only_a_part_and_is_resumed(server, cache):
    file = server.source("a.png", plan=[("stall", 6 * CHUNK)])
    source = f"Source(*{tuple(vars(file).values())!r})"
    code = f"from nsrlib.data.download import Source, obtain; obtain([{source}], 'get', 'try again')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        part, deadline = cache / "a.png.part", time.monotonic() + 120
        # its buffer may hold the last chunk back
        while not (part.exists() and part.stat().st_size >= 4 * CHUNK) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left_in(cache) == ["a.png.part"]
    size = part.stat().st_size
    assert 0 < size <= 6 * CHUNK
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.ranges("a.png")[-1] == f"bytes={size}-"
    assert left_in(cache) == ["a.png"]


def test_a_full_disk_is_named_and_leaves_nothing_under_the_final_name(server, cache, monkeypatch):
    file = server.source("a.png")
    real_open = builtins.open

    def open_on_a_full_disk(path, mode="r", *args, **kwargs):
        handle = real_open(path, mode, *args, **kwargs)
        if str(path).endswith(".part") and mode in ("ab", "wb"):
            room = 3

            def write(chunk, write=handle.write):
                nonlocal room
                room -= 1
                if room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(chunk)

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *args):
                    handle.close()

            full = Full()
            full.write = write
            return full
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", open_on_a_full_disk)
        with pytest.raises(DataUnavailable, match=r"disk full: cannot write in .*cache"):
            get(file)
    assert left_in(cache) == ["a.png.part"]
    assert get(file)["a.png"].read_bytes() == BODY
    assert server.ranges("a.png") == [None, f"bytes={3 * CHUNK}-"]


def test_a_cache_that_cannot_be_written_is_named(server, cache, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataUnavailable, match=r"no permission: cannot write in .*; set NSRLIB_CACHE to another folder"):
        get(server.source("a.png"))
    assert left_in(cache) == ["a.png.part"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_named(server, cache):
    cache.mkdir(mode=0o500)
    with pytest.raises(DataUnavailable, match="no permission: cannot write in"):
        get(server.source("a.png"))


def test_a_cache_that_is_a_file_is_named(server, cache):
    cache.write_text("not a folder")
    with pytest.raises(DataUnavailable, match=r"cannot write: .*File exists"):
        get(server.source("a.png"))


@pytest.mark.parametrize("body", [b"y" * len(BODY), b"short"], ids=["same size", "other size"])
def test_a_tampered_cache_file_is_reported_and_replaced(server, cache, body):
    file = server.source("a.png")
    cache.mkdir()
    (cache / "a.png").write_bytes(body)
    with pytest.warns(UserWarning, match=f"cache: .*a.png has sha256 {hashlib.sha256(body).hexdigest()}, expected"):
        assert get(file)["a.png"].read_bytes() == BODY


def test_a_wrong_file_in_nsrlib_data_is_reported_skipped_and_never_touched(server, cache, tmp_path, monkeypatch):
    file = server.source("Toy/a.png")
    mine = tmp_path / "mine" / "Toy" / "a.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    before = mine.stat()
    monkeypatch.setenv("NSRLIB_DATA", str(tmp_path / "mine"))
    with pytest.warns(UserWarning, match="the file is ignored") as warned:
        assert get(file)["Toy/a.png"] == cache / "Toy/a.png"
    digest = hashlib.sha256(b"mine").hexdigest()
    assert [str(w.message) for w in warned] == [
        f"NSRLIB_DATA: {mine} has sha256 {digest}, expected {file.sha256}; the file is ignored"
    ]
    assert mine.read_bytes() == b"mine"
    assert mine.stat().st_mtime_ns == before.st_mtime_ns
    assert left_in(tmp_path / "mine") == ["Toy/a.png"]


def test_nsrlib_data_comes_before_the_cache_and_its_folders_in_order(server, cache, tmp_path, monkeypatch):
    file = server.source("a.png")
    for folder in (cache, tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        (folder / "a.png").write_bytes(BODY)
    monkeypatch.setenv("NSRLIB_DATA", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")]))
    assert get(file)["a.png"] == tmp_path / "first" / "a.png"
    (tmp_path / "first" / "a.png").unlink()
    assert get(file)["a.png"] == tmp_path / "second" / "a.png"
    (tmp_path / "second" / "a.png").unlink()
    assert get(file)["a.png"] == cache / "a.png"
    assert server.requests == []


def test_a_folder_of_nsrlib_data_that_does_not_exist_is_reported(server, monkeypatch):
    monkeypatch.setenv("NSRLIB_DATA", "/no/such/folder")
    with pytest.warns(UserWarning, match="NSRLIB_DATA names /no/such/folder, which is not a folder"):
        get(server.source("a.png"))


def test_offline_forbids_the_network(server, monkeypatch):
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match=r"download \(NSRLIB_OFFLINE is set\)"):
        get(server.source("a.png"))
    monkeypatch.setenv("NSRLIB_OFFLINE", "0")
    assert get(server.source("a.png"))


def test_a_look_up_without_download_asks_nobody(server):
    with pytest.raises(DataUnavailable, match=r"NSRLIB_DATA \(not set\), cache \(empty\), download \(not asked for\)"):
        get(server.source("a.png"), download=False)
    assert server.requests == []


def test_a_dead_network_fails_at_once_and_is_remembered(cache):
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))  # nobody else gets this port, and nobody answers
        port = host.getsockname()[1]
        file = Source("Toy", "test", "a.png", 1, "0" * 64, f"http://127.0.0.1:{port}/a.png", "none")
        with pytest.raises(DataUnavailable, match=f"no network: 127.0.0.1:{port}: connection refused") as caught:
            get(file)
        host.listen()  # somebody would answer now, but is not asked
        host.setblocking(False)
        with pytest.raises(DataUnavailable, match="no network"):
            get(file)
        with pytest.raises(BlockingIOError):
            host.accept()
    assert caught.value.looked == {
        "NSRLIB_DATA": "not set",
        "cache": "empty",
        "download": caught.value.looked["download"],
    }
    assert not cache.exists()


def test_a_network_that_swallows_everything_fails_within_the_connect_timeout(server, monkeypatch):
    import requests

    # a name server that is gone
    monkeypatch.setattr(requests.Session, "head", lambda *args, **kwargs: server.stop_stalling.wait(60))
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"no network: .*no answer within 0.25 s"):
        get(server.source("a.png"), policy=DownloadPolicy(connect=0.2))
    assert time.monotonic() - start < 30


def test_the_bar_counts_every_byte_once(server, capsys):
    a = server.source("a.png", plan=[("slowly", 0.3)])
    b = server.source("b.png", plan=[("truncate", 4 * CHUNK), ("ignore range",)])
    obtain([a, b], "get", "try again", policy=FAST)
    assert "200k/200k" in capsys.readouterr().err


def test_weights_are_found_by_file_name(server, cache, monkeypatch):
    file = server.source("weights/toy_x4.pth")
    monkeypatch.setattr(download, "sources", lambda: {file.path: file})
    with pytest.raises(DataUnavailable, match=r"toy_x4.pth: 1 of 1 files missing.*run 'nsr data fetch weights'"):
        download.weights_path("toy_x4.pth", download=False)
    assert download.weights_path("toy_x4.pth") == cache / "weights/toy_x4.pth"
    with pytest.raises(ValueError, match=r"unknown weights 'toy_x3.pth': did you mean 'toy_x4.pth'\?"):
        download.weights_path("toy_x3.pth")


def test_pictures_of_results_are_fetched_and_verified_as_a_group(server, cache, monkeypatch):
    file, other = dataclasses.replace(server.source("theirs/a.png"), role="reference"), server.source("b.png")
    monkeypatch.setattr(catalogue, "sources", lambda: {file.path: file, other.path: other})
    assert catalogue.verify("figures")["status"].tolist() == ["missing"]
    assert catalogue.fetch_set("Figures") == {file.path: cache / file.path}
    assert catalogue.verify("figures")["status"].tolist() == ["ok"]
