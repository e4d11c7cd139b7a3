"""The audit of every kernel under each Triton that users have, side by side: ``make audit``.

A PyTorch release brings a Triton of its own (2.11 has 3.6, 2.13 has 3.7), and each compiles the kernels differently.
The versions that are not installed come from the package index, each into a folder that lasts as long as the audit and
stands first in ``PYTHONPATH``. Only Triton is needed there: nothing runs, so one PyTorch serves all.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsrlib import files
from nsrlib.bench.audit import audit_all, entries

if TYPE_CHECKING:
    import pandas as pd

NEWEST = "newest"
VERSIONS = ("3.6.0", "3.7.1", NEWEST)
TESTS = files.ROOT / "tests" / "bench" / "test_audit.py"


def fetch(version: str, folder: Path) -> str:
    """Put a Triton of the package index into ``folder``, with nothing that it depends on. Returns its version.

    Args:
        version: such as ``3.6.0``, or :data:`NEWEST`.

    Raises:
        OSError: it is not to be had, with the reason.
    """
    wanted = "triton" if version == NEWEST else f"triton=={version}"
    where = ["--python", sys.executable, "--target", str(folder)]
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", *where, wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.replace("×", "").replace("╰─▶", "").split()) or f"uv: {done.returncode}")
    return next(folder.glob("triton-*.dist-info")).name.removesuffix(".dist-info").split("-")[1]


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a kernel and target, a column a version, from tables of :func:`~nsrlib.bench.audit.audit_all`.

    A cell holds registers, bytes of stack, spills, barriers in the hot loop and its share of useful instructions.
    """
    import pandas as pd

    def cell(row: Any) -> str:
        if row.get("error"):
            return "does not compile"
        counts = f"{row['registers']:3.0f} {row['stack']:3.0f} {row['spills']:3.0f} {row['loop_barriers']:2.0f}"
        return f"{counts} {row['share']:4.0%}"

    columns = {
        version: pd.Series([cell(row) for row in table.to_dict("records")], index=[table["case"], table["target"]])
        for version, table in tables.items()
    }
    return pd.DataFrame(columns).rename_axis(["kernel", "target"]).reset_index()


def _environment(folder: Path | None, cache: Path) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    path = [str(folder)] if folder else []
    path += [found["PYTHONPATH"]] if found.get("PYTHONPATH") else []
    return {**found, "PYTHONPATH": os.pathsep.join(path), "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}


def _python(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=files.ROOT, env=environment, capture_output=True, text=True, check=False)


def _audit(only: str, environment: dict[str, str], path: Path) -> pd.DataFrame:
    import pandas as pd

    done = _python(["-m", "nsrlib.bench.tritons", "--only", only, "--write", str(path)], environment)
    if done.returncode:
        raise RuntimeError(f"no audit:\n{done.stderr[-2000:]}")
    return pd.read_json(path)


def _tests(environment: dict[str, str]) -> tuple[bool, str]:
    """Whether the audit's tests pass, and what pytest says of it."""
    done = _python(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)], environment)
    last = (done.stdout or done.stderr).strip().rpartition("\n")[2]
    return done.returncode == 0, "\n".join([last, *re.findall(r"^(?:FAILED|ERROR|E  ).*", done.stdout, re.MULTILINE)])


def _folders(wanted: Sequence[str], temporary: Path) -> dict[str, Path | None]:
    """Where each version lies that can be had; None for the installed one, which always counts."""
    installed: str = import_module("triton").__version__
    found: dict[str, Path | None] = {installed: None}
    missing = {}
    for version in wanted:
        if version != installed:
            try:
                found.setdefault(fetch(version, temporary / version), temporary / version)
            except OSError as error:
                missing[version] = str(error)
    if missing:
        reason = next(iter(missing.values()))[:200]
        print(f"not to be had: Triton {', '.join(missing)} ({reason}); what counts: {', '.join(found)}", flush=True)
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def compare(wanted: Sequence[str] = VERSIONS, only: str = "", tests: bool = True) -> int:
    """Print the audit under every version of ``wanted`` that can be had, and under the installed one.

    Args:
        wanted: versions, or :data:`NEWEST`.
        only: kernels with this in their name.
        tests: run the audit's tests, too: the bars that each version's machine code must keep.

    Returns:
        How many versions failed: a kernel that does not compile, or a bar that does not hold.
    """
    tables: dict[str, pd.DataFrame] = {}
    failed = set()
    with tempfile.TemporaryDirectory(prefix="tritons-") as temporary:
        folders = _folders(wanted, Path(temporary))
        environments = {v: _environment(folder, Path(temporary, "cache")) for v, folder in folders.items()}
        for version, environment in environments.items():
            start = time.monotonic()
            try:
                table = _audit(only, environment, Path(temporary, f"{version}.json"))
            except RuntimeError as error:  # not even an import
                failed.add(version)
                print(f"Triton {version}: {error}", flush=True)
                continue
            tables[version] = table
            print(f"Triton {version}: {len(table)} audits in {time.monotonic() - start:.0f} s", flush=True)
            for row in table[table["error"] != ""].to_dict("records"):
                failed.add(version)
                print(f"{row['case']} for {row['target']} does not compile: {row['error']}", flush=True)
        if tables:
            print("\nregisters, bytes of stack, spills; barriers and useful instructions of the hot loop\n")
            print(side_by_side(tables).to_string(index=False), flush=True)
        if tests and TESTS.is_file():
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process of its own each
                results = pool.map(_tests, environments.values())
            print()
            for version, (passed, said) in zip(environments, results, strict=True):
                print(f"Triton {version}: {said}")
                failed.update([] if passed else [version])
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nsrlib.bench.tritons", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--only", default="", help="kernels with this in their name")
    parser.add_argument("--no-tests", action="store_true", help="the table alone")
    parser.add_argument("--write", type=Path, help="audit under this process's Triton alone and write JSON here")
    given = parser.parse_args(arguments)
    names = [name for name in entries() if given.only in name]
    if not names:
        parser.error(f"--only {given.only!r} is in no name; there are: {', '.join(entries())}")
    if not given.write:
        return compare(given.versions, given.only, not given.no_tests)
    audit_all(names, keep_going=True).to_json(given.write, orient="records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
