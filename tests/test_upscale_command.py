"""``nsr upscale``: one picture, several and folders, and that nothing of the user's is lost."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command import Done, nearly, photo, refused
from PIL import Image

from nsrlib import evaluation
from nsrlib.images import imresize
from nsrlib.pictures import read_picture

BICUBIC = ("--model", "bicubic", "--scale", 2)


def contents(folder: Path = Path()) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def size(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


# --- one picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4], ids=["gray", "RGB", "RGBA"])
def test_upscale_keeps_the_channels(nsr, tmp_path, channels):
    x = photo(20, 26, channels) if channels > 1 else photo(20, 26)
    Image.fromarray(x).save("in.png")
    done = nsr("upscale", "in.png", "out.png", "--model", "bicubic", "--scale", 2, "--device", "cpu")
    assert done == Done(0, "in.png 26x20 -> out.png 52x40\n", "")
    y = np.asarray(Image.open("out.png"))
    assert nearly(y, np.round(imresize(x.astype(np.float64), 2)))
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["in.png", "out.png"]


def test_upscale_turns_a_picture_upright(nsr):
    exif = Image.Exif()
    exif[0x0112] = 6
    x = photo(20, 26, 3)
    Image.fromarray(x).save("in.png", exif=exif)
    done = nsr("upscale", "in.png", "out.png", "--model", "bicubic", "--scale", 2)
    assert done.out == "in.png 20x26 -> out.png 40x52\n"
    y = np.round(read_picture("out.png").rgb * 255)
    assert nearly(y, np.round(imresize(np.rot90(x, -1).astype(np.float64), 2)))


def test_upscale_writes_beside_the_source_by_default(nsr, pictures):
    done = nsr("upscale", pictures / "a.png", "--model", "bicubic", "--scale", 3)
    assert done.code == 0
    assert Image.open(pictures / "a_x3.png").size == (120, 96)


def test_upscale_in_tiles_gives_the_same_and_no_bar_in_a_log(nsr, pictures):
    Image.fromarray(photo(80, 90, 3)).save("in.png")
    whole = nsr("upscale", "in.png", "whole.png", "--model", "bicubic", "--scale", 2)
    tiles = nsr("upscale", "in.png", "tiles.png", "--model", "bicubic", "--scale", 2, "--tile", 32)
    assert whole.err == tiles.err == ""
    assert nearly(np.asarray(Image.open("tiles.png")), np.asarray(Image.open("whole.png")).astype(int))


def test_upscale_says_what_could_not_be_kept(nsr):
    frames = [Image.fromarray(photo(16, 16, 3, seed=k)) for k in range(2)]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:])
    done = nsr("upscale", "in.gif", "out.png", "--model", "bicubic", "--scale", 2)
    assert done.out.startswith("note: only the first of 2 frames was read\n")


@pytest.mark.parametrize(
    ("target", "pattern"),
    [
        ("nowhere/out.png", "no such folder: nowhere"),
        ("out.xyz", r"out\.xyz: pictures are not written as '\.xyz'"),
        ("out", "no such image: out; for a new folder: --out out"),
        ("folder.png", r"no pictures in folder\.png \(.*\); to write there: --out folder\.png"),
    ],
)
def test_upscale_to_an_impossible_target_leaves_nothing(nsr, target, pattern):
    Image.fromarray(photo(16, 16, 3)).save("in.png")
    Path("folder.png").mkdir()
    refused(nsr("upscale", "in.png", target, "--model", "bicubic"), pattern)
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["folder.png", "in.png"]
    assert list(Path("folder.png").iterdir()) == []


def test_upscale_into_a_folder_that_cannot_be_written_does_no_work(nsr, pictures, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(evaluation, "upscaled_bands", None)
    done = nsr("upscale", pictures / "a.png", pictures / "out.png", "--model", "bicubic")
    refused(done, f"no permission to write in {re.escape(str(pictures))}")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_upscale_into_a_read_only_folder_is_refused(nsr, pictures):
    pictures.chmod(0o500)
    try:
        refused(nsr("upscale", pictures / "a.png", pictures / "out.png", "--model", "bicubic"), "no permission")
    finally:
        pictures.chmod(0o700)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_upscale_of_a_truncated_picture_leaves_nothing(nsr, pictures, share):
    whole = (pictures / "a.png").read_bytes()
    Path("in.png").write_bytes(whole[: int(len(whole) * share)])
    refused(nsr("upscale", "in.png", "--model", "bicubic"), r"cannot decode in\.png: ")
    assert [p.name for p in Path.cwd().iterdir()] == ["in.png"]


@pytest.mark.parametrize("old", [True, False], ids=["over an old file", "new"])
def test_a_disk_that_fills_up_leaves_no_half_picture(nsr, pictures, monkeypatch, old):
    if old:
        Path("out.png").write_bytes(b"precious")

    def save(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    done = nsr("upscale", pictures / "a.png", "--out", "out.png", "--model", "bicubic", "--force")
    assert (done.code, done.err) == (1, "nsr: cannot write out.png: No space left on device\n")
    assert [p.name for p in Path.cwd().iterdir()] == (["out.png"] if old else [])
    assert not old or Path("out.png").read_bytes() == b"precious"


# --- what is there stays ----------------------------------------------------------------------------------------------


@pytest.fixture
def album() -> Path:
    """A folder of three pictures, of one that is none, and of other things."""
    folder = Path("album")
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.PNG", "more/d.png")):
        Image.fromarray(photo(12, 10 + number, 3, seed=number)).save(folder / name)
    (folder / "notes.txt").write_text("words")
    (folder / ".hidden.png").write_bytes(b"no picture")
    return folder


def test_a_pattern_that_matches_two_pictures_harms_neither(nsr, album):
    before = contents(album)
    done = nsr("upscale", album / "a.png", album / "b.jpg", *BICUBIC)
    assert done.out == ("[1/2] a.png 10x12 -> album/a_x2.png 20x24\n[2/2] b.jpg 11x12 -> album/b_x2.png 22x24\n")
    assert {name: content for name, content in contents(album).items() if name in before} == before
    assert size(album / "a_x2.png") == (20, 24)
    assert size(album / "b_x2.png") == (22, 24)


@pytest.mark.parametrize("arguments", [["large.png"], ["--out", "large.png"], []], ids=" ".join)
def test_a_result_that_is_there_is_replaced_only_by_force(nsr, album, arguments):
    target = Path("large.png") if arguments else album / "a_x2.png"
    target.write_bytes(b"precious")
    done = nsr("upscale", album / "a.png", *arguments, *BICUBIC)
    assert done.code == 1
    assert target.read_bytes() == b"precious"
    if arguments != ["large.png"]:  # which stands for a second source
        refused(done, rf"{target} is there already; --force replaces it, --resume leaves it .*")
        assert nsr("upscale", album / "a.png", *arguments, *BICUBIC, "--force").code == 0
        assert size(target) == (20, 24)


def test_force_does_not_turn_a_second_source_into_a_target(nsr, album):
    before = contents(album)
    assert nsr("upscale", album / "a.png", album / "b.jpg", *BICUBIC, "--force").code == 0
    assert {name: content for name, content in contents(album).items() if name in before} == before


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["album/a.png", "--out", "album/a.png"],
        ["album/a.png", "--out", "album/../album/a.png"],
        ["album/a.png", "--out", "linked.png"],
        ["album/a.png", "album/a_x2.png"],
        ["album/a.png", "same/a_x2.png"],
    ],
    ids=" ".join,
)
def test_no_source_is_written_over(nsr, album, arguments, force):
    Image.fromarray(photo(9, 9, 3)).save(album / "a_x2.png")
    Path("linked.png").hardlink_to(album / "a.png")
    Path("same").symlink_to("album")
    before = contents()
    done = nsr("upscale", *arguments, *BICUBIC, *force)
    refused(done, "(is itself a source|is there already|source)")
    assert contents() == before


def test_two_sources_of_one_name_are_refused_before_the_network_runs(nsr, album, monkeypatch):
    monkeypatch.setattr(evaluation, "upscaled_bands", None)
    (album / "a.jpg").write_bytes((album / "b.jpg").read_bytes())
    done = nsr("upscale", album, "--out", "large", *BICUBIC)
    refused(done, r"album/a\.jpg and album/a\.png would both become large/a_x2\.png; rename one, or ")
    assert not Path("large").exists()


def test_every_result_is_checked_before_the_network_runs(nsr, album, monkeypatch):
    monkeypatch.setattr(evaluation, "upscaled_bands", None)
    (album / "c_x2.png").write_bytes(b"precious")
    before = contents()
    done = nsr("upscale", album / "a.png", album / "b.jpg", album / "c.PNG", *BICUBIC)
    refused(done, r"album/c_x2\.png is there already")
    assert contents() == before


# --- folders, and going on --------------------------------------------------------------------------------------------


def test_a_folder_is_upscaled_into_another(nsr, album):
    before = contents(album)
    done = nsr("upscale", album, "--out", "large", *BICUBIC)
    assert (done.code, done.err) == (0, "")
    assert sorted(contents(Path("large"))) == ["a_x2.png", "b_x2.png", "c_x2.png"]
    assert size("large/c_x2.png") == (24, 24)
    assert done.out.splitlines()[-1] == f"[3/3] c.PNG 12x12 -> {Path('large/c_x2.png')} 24x24"
    assert contents(album) == before


def test_pictures_and_folders_may_be_mixed_and_each_counts_once(nsr, album):
    done = nsr("upscale", album / "a.png", album, album / "more" / "d.png", "--out", "large/", *BICUBIC)
    assert done.code == 0, done
    assert sorted(contents(Path("large"))) == ["a_x2.png", "b_x2.png", "c_x2.png", "d_x2.png"]


def test_resume_makes_what_is_missing_and_leaves_the_rest(nsr, album):
    assert nsr("upscale", album, "--out", "large", *BICUBIC).code == 0
    Path("large/b_x2.png").unlink()
    Path("large/c_x2.png").write_bytes(b"as it was")
    refused(nsr("upscale", album, "--out", "large", *BICUBIC), r"large/a_x2\.png is there already; .*--resume")
    done = nsr("upscale", album, "--out", "large", *BICUBIC, "--resume")
    assert done == Done(
        0,
        "large/a_x2.png is there already\nlarge/c_x2.png is there already\n[1/1] b.jpg 11x12 -> large/b_x2.png 22x24\n",
        "",
    )
    assert Path("large/c_x2.png").read_bytes() == b"as it was"


def test_one_broken_picture_does_not_lose_the_others(nsr, album):
    (album / "b.jpg").write_bytes(b"no picture")
    done = nsr("upscale", album, "--out", "large", *BICUBIC)
    assert done.code == 1
    assert re.fullmatch(r"nsr: cannot decode album/b\.jpg: .*\n", done.err)
    assert done.out.endswith("2 of 3 pictures upscaled\n")
    assert sorted(contents(Path("large"))) == ["a_x2.png", "c_x2.png"]


def test_a_full_disk_ends_the_work(nsr, album, monkeypatch):
    asked = []

    def save(self, path, **_):
        asked.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    refused(nsr("upscale", album, "--out", "large", *BICUBIC), r"large/a_x2\.png: No space left on device")
    assert len(asked) == 1
    assert contents(Path("large")) == {}


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["album"], r"album is a folder: --out says where its 3 pictures go"),
        (["album", "--out", "all.png"], r"--out all\.png is one file for 3 pictures; give a folder, with a slash at "),
        (["album/more", "album/nothing"], "no such image: album/nothing"),
        (["album/a.png", "b.png", "c.png"], r"no such image: b\.png"),
        (["nothing.png", "out.png"], r"no such image: nothing\.png"),
        (["album/a.png", "--out", "out.xyz"], r"out\.xyz: pictures are not written as '\.xyz'"),
        (["album/a.png", "--out", "nowhere/out.png"], "no such folder: nowhere"),
        (["album/a.png", "--force", "--resume"], "--force replaces what is there, --resume keeps it; leave one out"),
        (["album/a.png", "--out", "album/a.png/"], "album/a.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(nsr, album, arguments, pattern):
    before = contents()
    refused(nsr("upscale", *arguments, *BICUBIC), pattern)
    assert contents() == before
    assert sorted(path.name for path in Path().iterdir()) == ["album"]
