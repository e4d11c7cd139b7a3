"""The house: imports point downwards and never in a circle, rooms know no paper by name, files stay short.

The code is parsed, not run: imports inside functions and under ``TYPE_CHECKING`` count like all others. A package that
loads its names lazily counts by its stub, with edges to its own modules, which must not import its names back.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nsrlib"
FLOORS = (
    ("files", "images", "pictures", "ops", "security", "signatures"),
    ("metrics", "layers", "data"),
    ("models",),
    ("complexity", "evaluation", "training"),
    ("studies", "claims", "statistics", "explain"),
    ("papers", "plots", "bench"),
    ("runs",),
    ("cli",),
    ("",),  # nsrlib itself, whose stub lists the rooms
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PAPERS = {path.parent.name for path in (PACKAGE / "papers").glob("*/__init__.py")}
ENTRY_POINT = "nsrlib.papers"  # by which packages add papers: a word, no import
LINES = 600


def module_name(path: Path) -> str:
    """``nsrlib/data/sets.py`` -> ``nsrlib.data.sets``; a package's ``__init__`` has the package's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# By module: its source and its stub, where there is one. What nsr new-paper copies is another package's code.
FILES = defaultdict(list)
for _path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]):
    if "template" not in _path.parts:
        FILES[module_name(_path)].append(_path)


@lru_cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, modules: set[str]) -> Iterator[tuple[str, int]]:
    """The modules of ``modules`` that a file imports, with the line: also by their name as a string."""
    package = module_name(path) if path.stem == "__init__" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
            yield from ((name, node.lineno) for name in sorted(found & modules))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if name.startswith("nsrlib.") and name in modules and node.value != ENTRY_POINT:
                yield name, node.lineno


def edges(files: dict[str, list[Path]]) -> dict[tuple[str, str], str]:
    """Who imports whom, and where: ``path:line``."""
    return {
        (name, target): f"{path.relative_to(ROOT)}:{line}"
        for name, paths in files.items()
        for path in paths
        for target, line in imported(path, set(files))
        if target != name
    }


def room(module: str) -> str:
    """``nsrlib.data.sets`` -> ``data``."""
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_floor():
    assert {room(name) for name in FILES} == set(FLOOR)


def test_imports_point_downwards():
    upwards = [
        f"{where}: {room(name) or 'nsrlib'} imports {target}, which stands above it"
        for (name, target), where in edges(FILES).items()
        if FLOOR.get(room(target), 0) > FLOOR.get(room(name), 0)
    ]
    assert not upwards, "\n".join(["", *upwards])


def test_no_imports_go_in_a_circle():
    places = edges(FILES)
    graph = defaultdict(set)
    for name, target in places:
        graph[name].add(target)
    circles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            circle = error.args[1][::-1]  # each imports the next
            steps = list(pairwise(circle))
            circles.append(" -> ".join(circle) + "".join(f"\n    {places[step]}" for step in steps))
            graph[steps[0][0]].discard(steps[0][1])
    assert not circles, "\n".join(["", *circles])


def outside_papers() -> Iterator[tuple[Path, ast.Module]]:
    for name, paths in FILES.items():
        if room(name) not in ("papers", "models"):
            yield from ((path, parsed(path)) for path in paths)


def test_no_room_imports_the_module_of_a_paper():
    owned = re.compile(rf"nsrlib\.(papers|models)\.({'|'.join(PAPERS)})(\.|$)")
    found = [
        f"{where}: {target}"
        for (name, target), where in edges(FILES).items()
        if room(name) not in ("papers", "models") and owned.match(target)
    ]
    assert not found, "\n".join(["", *found])


def named_papers(node: ast.AST) -> list[str]:
    """The papers' names that a dict has as keys, or a list, tuple or set as elements."""
    if isinstance(node, ast.Dict):
        items: list[ast.expr | None] = node.keys
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = list(node.elts)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return [word.arg for word in node.keywords if word.arg in PAPERS]
    else:
        return []
    found = [item.value for item in items if isinstance(item, ast.Constant) and item.value in PAPERS]
    # A command line, ["nsr", "reproduce", ...], begins with the name of the command.
    first = items[0] if items else None
    command = isinstance(node, ast.List | ast.Tuple) and isinstance(first, ast.Constant) and first.value == "nsr"
    return [] if command and len(items) > 1 and len(found) == 1 else found


def test_no_room_lists_papers_by_name():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {', '.join(names)}"
        for path, tree in outside_papers()
        for node in ast.walk(tree)
        if (names := named_papers(node))
    ]
    assert not found, "\n".join(["", *found])


def test_long_files_say_why():
    """At most 600 lines, or the docstring's first paragraph has the words "long because"."""
    found = []
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        lines = len(path.read_text().splitlines())
        head = " ".join((ast.get_docstring(parsed(path)) or "").split()[:80])
        if lines > LINES and "long because" not in head:
            found.append(f"{path.relative_to(ROOT)}: {lines} lines")
    assert not found, "\n".join(["", *found])


def test_import_nsrlib_loads_nothing_heavy():
    code = "import sys, nsrlib; print(*sorted({'torch', 'triton', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# The rules themselves, on a house of two files.


def test_the_rules_see_deferred_relative_and_named_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    texts = {
        "nsrlib/a.py": 'if TYPE_CHECKING:\n    from nsrlib.p import b\nX = "nsrlib.p.c:Class"\n',
        "nsrlib/p/__init__.pyi": "from . import b\nfrom .c import Class\n",
        "nsrlib/p/b.py": "def f():\n    from .c import x\n",
        "nsrlib/p/c.py": "from nsrlib.p import Class\nfrom .. import a\n",
    }
    files = {}
    for name, text in texts.items():
        (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files[module_name(path)] = [path]
    assert edges(files) == {
        ("nsrlib.a", "nsrlib.p.b"): "nsrlib/a.py:2",
        ("nsrlib.a", "nsrlib.p.c"): "nsrlib/a.py:3",
        ("nsrlib.p", "nsrlib.p.b"): "nsrlib/p/__init__.pyi:1",
        ("nsrlib.p", "nsrlib.p.c"): "nsrlib/p/__init__.pyi:2",
        ("nsrlib.p.b", "nsrlib.p.c"): "nsrlib/p/b.py:2",
        ("nsrlib.p.c", "nsrlib.p"): "nsrlib/p/c.py:1",
        ("nsrlib.p.c", "nsrlib.a"): "nsrlib/p/c.py:2",
    }


def test_the_rules_tell_the_command_from_the_paper():
    def names(code: str) -> list[str]:
        return [name for node in ast.walk(ast.parse(code)) for name in named_papers(node)]

    assert names('["nsr", "reproduce"]; ("nsr", *words); "nsr"; f("nsr")') == []
    assert names('{"nsr": 1}; ["bsrn"]; ("nsr", "drn"); {"drcn"}; dict(addersr=2); ["nsr"]') == [
        *("nsr", "bsrn", "nsr", "drn", "drcn", "addersr", "nsr"),
    ]
