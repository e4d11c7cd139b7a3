"""The files around the package: one set of dependencies in four places, links that lead somewhere, no local paths."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPI_NAME = {"pytorch": "torch", "matplotlib-base": "matplotlib"}  # conda-forge name -> PyPI name
CONDA_EXTRAS = ("notebooks", "native", "sweep", "train", "triton", "test")  # the extras that environment.yml installs

# The home folder of a person or of root; not part of a longer word, so that a web address may contain "/home/".
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(?:root/|home/[A-Za-z_][\w.-]*|Users/[A-Za-z_][\w.-]*)")


def canonical(requirements):
    """Requirements (PEP 508 lines) by canonical name; a name listed twice is an error."""
    parsed = [Requirement(line) for line in requirements]
    by_name = {canonicalize_name(r.name): r for r in parsed}
    assert len(by_name) == len(parsed), "a name is listed twice"
    return by_name


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def project_requirements(extras):
    meta = project()
    return canonical(meta["dependencies"] + [line for e in extras for line in meta["optional-dependencies"][e]])


def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def environment_requirements():
    """What environment.yml installs from conda-forge and by pip, under PyPI names; without pip and ``-e .``."""
    lines = []
    for entry in environment()["dependencies"]:
        if isinstance(entry, dict):
            lines += [line for line in entry["pip"] if not line.startswith("-e")]
        else:
            name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", entry).groups()
            lines.append(PYPI_NAME.get(name, name) + bound)
    found = canonical(lines)
    del found["pip"]
    return found


def constraints():
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return canonical(line for line in lines if line)


def lock():
    """The requirements of requirements.lock, one for each Python where they differ, with the number of hashes."""
    text = re.sub(r"#.*", "", (ROOT / "requirements.lock").read_text()).replace("\\\n", " ")
    entries = [line.split("--hash=") for line in text.splitlines() if line.strip()]
    return [(Requirement(requirement.strip()), len(hashes)) for requirement, *hashes in entries]


def locked(name):
    return [requirement for requirement, _ in lock() if canonicalize_name(requirement.name) == name]


def tracked_files():
    """Paths that git tracks; skips, with the reason, where there is no checkout to ask."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, or no git: cannot tell which files are tracked")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listing.returncode:
        pytest.skip(f"git ls-files failed: {listing.stderr.decode().strip()}")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


def test_conda_environment_takes_packages_from_conda_forge_alone():
    assert environment()["name"] == "nsrlib"
    assert set(environment()["channels"]) <= {"conda-forge", "nodefaults"}
    assert environment()["channels"][0] == "conda-forge"


def test_conda_environment_links_this_package():
    pip_lines = [line for e in environment()["dependencies"] if isinstance(e, dict) for line in e["pip"]]
    assert "-e ." in pip_lines


def test_conda_environment_has_the_names_of_pyproject():
    assert set(environment_requirements()) - {"python"} == set(project_requirements(CONDA_EXTRAS))


@pytest.mark.parametrize("name", sorted(project_requirements(CONDA_EXTRAS)))
def test_conda_environment_has_the_bounds_of_pyproject(name):
    ours, theirs = project_requirements(CONDA_EXTRAS)[name], environment_requirements()[name]
    assert (theirs.specifier, theirs.marker) == (ours.specifier, ours.marker)


def test_conda_environment_has_the_python_of_pyproject():
    bound = Requirement(f"python{project()['requires-python']}").specifier
    assert environment_requirements()["python"].specifier == bound


def test_every_constraint_and_every_line_of_the_lock_is_one_exact_version():
    for pin in [*constraints().values(), *(requirement for requirement, _ in lock())]:
        assert re.fullmatch(r"==[^*=]+", str(pin.specifier)), f"{pin} is no exact pin"


def test_everything_but_torch_is_locked_by_hash():
    assert [str(requirement) for requirement, hashes in lock() if hashes == 0] == []
    assert set(constraints()) == {"torch", "triton"}
    assert [pin.specifier for pin in locked("triton")] == [constraints()["triton"].specifier]


@pytest.mark.parametrize("name", sorted({*project_requirements(CONDA_EXTRAS)}))
def test_direct_dependency_is_pinned_inside_its_bound(name):
    pins = locked(name) if name != "torch" else [constraints()[name]]
    assert pins, f"{name} is a dependency in pyproject.toml and has no pin: make lock"
    bound = project_requirements(CONDA_EXTRAS)[name].specifier
    for pin in pins:
        (one,) = pin.specifier
        assert Version(one.version) in bound


def test_the_makefile_installs_every_extra():
    assert re.search(r"^EXTRAS +:= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split() == [*CONDA_EXTRAS]
    assert set(CONDA_EXTRAS) == set(project()["optional-dependencies"])


def test_citation_and_licence_say_what_pyproject_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"], citation["license"]) == (
        project()["name"],
        project()["version"],
        project()["license"],
    )
    assert (ROOT / "LICENSE").read_text().startswith(f"{project()['license']} License")


def test_citation_names_the_papers():
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    arxiv = {reference["url"].rsplit("/", 1)[1] for reference in references}
    assert arxiv == {"2006.04357", "2009.08891", "2205.05996", "1511.04491", "2207.07929", "2003.07018"}


@pytest.mark.parametrize(
    ("text", "is_machine_path"),
    [
        ("/".join(["", "root", "repo"]), True),
        ("file://" + "/".join(["", "home", "jane", "x.png"]), True),
        ("'" + "/".join(["", "Users", "jane"]), True),
        ("https://example.org/home/page", False),
        ("/".join(["~", "root", "x"]), False),
        ("/".join(["", "home", "<user>"]), False),
    ],
)
def test_machine_paths_are_told_from_web_addresses(text, is_machine_path):
    assert bool(MACHINE_PATH.search(text.encode())) is is_machine_path


def test_no_tracked_file_contains_a_machine_path():
    found = {}
    for path in tracked_files():
        if path.is_file() and (hit := MACHINE_PATH.search(path.read_bytes())):
            found[str(path.relative_to(ROOT))] = hit[0].decode()
    assert not found


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files_that_exist(page):
    links = [link for link in LINK.findall((ROOT / page).read_text()) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(page):
    named = set(
        re.findall(r"\bmake ([a-z][a-z-]+)(?=[`\s])", "\n".join(re.findall(r"`[^`]+`", (ROOT / page).read_text())))
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets
    assert named or page != "README.md"


def test_the_contribution_guide_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 100
