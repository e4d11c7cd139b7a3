"""Grids as they are written on a command line or in a file."""

from __future__ import annotations

import pytest

from nsrlib.runs import grids


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2,3,4", [2, 3, 4]),
        ("0.1, 1e-3", [0.1, 0.001]),
        ("relu,gelu", ["relu", "gelu"]),
        ("true,False", [True, False]),
        ("2", [2]),
        ('"2,3",4', ["2,3", 4]),
        ("'2,3'", ["2,3"]),
        ('["2,3", "4"]', ["2,3", "4"]),
        ("[2, 3]", [2, 3]),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
        ("[1, 2],[3]", [[1, 2], [3]]),
        ('set5,"a,b"', ["set5", "a,b"]),
        ("0.5,auto", [0.5, "auto"]),
        ("a=b,c", ["a=b", "c"]),
        ("None,1", [None, 1]),
        ("/some/folder,x", ["/some/folder", "x"]),
    ],
)
def test_values_are_literals_or_words_and_quotes_keep_a_comma(text, values):
    assert grids.parse_values(text) == values
    assert [type(v) for v in grids.parse_values(text)] == [type(v) for v in values]


@pytest.mark.parametrize("text", ["", "[]", "a,,b", "a,"])
def test_an_empty_list_or_value_is_refused(text):
    with pytest.raises(ValueError, match=r"is no list of values; write v1,v2,\.\.\. or a list"):
        grids.parse_values(text)


def test_a_name_that_comes_again_adds_values():
    assert grids.parse_grid(["a=1,2", "b=x", "a='3,4'"]) == {"a": [1, 2, "3,4"], "b": ["x"]}


@pytest.mark.parametrize("pair", ["a", "=1", "1a=2", "a-b=2"])
def test_a_pair_without_a_name_is_refused(pair):
    with pytest.raises(ValueError, match=f"^-g takes name=v1,v2,..., got {pair!r}$"):
        grids.parse_grid([pair])


@pytest.mark.parametrize(
    ("name", "text", "points"),
    [
        ("grid.json", '{"scale": [2, 3], "mode": "x"}', [{"scale": 2, "mode": "x"}, {"scale": 3, "mode": "x"}]),
        ("grid.json", '[{"scale": 2}, {"scale": 3, "seed": 1}]', [{"scale": 2}, {"scale": 3, "seed": 1}]),
        ("grid.yaml", "scale: [2, 3]\nseed: 0\n", [{"scale": 2, "seed": 0}, {"scale": 3, "seed": 0}]),
        ("grid.yml", "- scale: 2\n- {scale: 3, scales: '2,3'}\n", [{"scale": 2}, {"scale": 3, "scales": "2,3"}]),
        ("grid.csv", "scale, scales\n2,\"2,3\"\n3,\n", [{"scale": 2, "scales": (2, 3)}, {"scale": 3}]),
        ("grid.csv", "\ufeffscale\n2\n\n3\n", [{"scale": 2}, {"scale": 3}]),
    ],
)  # fmt: skip
def test_a_grid_file_holds_points_or_values(tmp_path, name, text, points):
    (tmp_path / name).write_text(text)
    assert grids.read_grid(tmp_path / name) == points


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("grid.json", "{", "grid file grid.json: Expecting property name"),
        ("grid.json", "3", r"it holds neither a list of \{name: value\} nor \{name: \[values\]\}"),
        ("grid.json", "[1, 2]", "it holds neither a list"),
        ("grid.json", "[]", "it holds no values"),
        ("grid.json", "{}", "it holds no values"),
        ("grid.json", '{"scale": []}', "it holds no values"),
        ("grid.json", '{"a b": [1]}', "'a b' is no name of a parameter"),
        ("grid.yaml", "a: [1", "grid file grid.yaml: while parsing a flow sequence"),
        ("grid.yaml", "1: [1]", "1 is no name of a parameter"),
        ("grid.csv", "a,b\n1\n", "line 2 has 1 fields, the first line 2"),
        ("grid.csv", "a,b\n", "it holds no values"),
        ("grid.csv", "", "it holds no values"),
        ("grid.txt", "a", r"its name ends in none of \.json, \.yaml, \.yml and \.csv"),
    ],
)
def test_what_is_wrong_with_a_grid_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        grids.read_grid(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no such grid file: .*nowhere\.csv"):
        grids.read_grid(tmp_path / "nowhere.csv")


def test_a_grid_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "grid.csv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match=r"grid file grid\.csv: 'utf-8' codec"):
        grids.read_grid(tmp_path / "grid.csv")
