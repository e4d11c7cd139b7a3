"""The examples in docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import nsrlib

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = sorted(m.name for m in pkgutil.walk_packages(nsrlib.__path__, "nsrlib.") if ".template" not in m.name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_offline(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NSRLIB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    doctest.testmod(module, optionflags=OPTIONS)
    said = capsys.readouterr().out
    assert not said, said
