"""The widgets of the notebooks, moved from Python; ``tests/browser`` moves them in a browser."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

pytest.importorskip("ipywidgets")
from nsrlib.plots import viewers


def decoded(view) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(view.value)))


def flat(level: int = 3, rows: int = 8) -> np.ndarray:
    return np.full((rows, 20), level, np.uint8)


def file(content: bytes, name: str = "photo.png") -> dict:
    return {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": datetime.now(tz=UTC),
    }


def as_file(picture: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form)
    return buffer.getvalue()


# --- explore ----------------------------------------------------------------------------------------------------------


def test_a_slider_starts_at_the_default_and_changes_the_picture():
    viewer = viewers.explore(flat, level=(0, 15), rows=[4, 8])
    assert (decoded(viewer.views[0]) == 3).all()
    viewer.inputs["level"].value = 9
    assert (decoded(viewer.views[0]) == 9).all()
    viewer.inputs["rows"].value = 4
    assert decoded(viewer.views[0]).shape == (4, 20)


def test_figures_are_drawn_and_closed():
    def draw(n=1):
        fig, ax = plt.subplots(figsize=(2, 1))
        ax.plot([0, n])
        return fig

    before = plt.get_fignums()
    viewer = viewers.explore(draw, n=(1, 3))
    first = viewer.views[0].value
    viewer.inputs["n"].value = 2
    assert decoded(viewer.views[0]).ndim == 3
    assert viewer.views[0].value != first
    assert plt.get_fignums() == before


def test_several_pictures_stand_side_by_side_over_a_caption_that_cannot_be_markup():
    viewer = viewers.explore(lambda k=1: (flat(k), flat(2 * k), f"{k} < 5"), k=(0, 5))
    assert [decoded(v)[0, 0] for v in viewer.views] == [1, 2]
    assert viewer.caption.value == "1 &lt; 5"


def test_a_menu_gives_the_value_of_its_label_and_a_box_its_tick():
    seen = []
    viewer = viewers.explore(lambda net, on: seen.append((net, on)) or flat(), net={"small": 1, "large": 2}, on=True)
    viewer.inputs["net"].value = 2
    viewer.inputs["on"].value = False
    assert seen == [(1, True), (2, True), (2, False)]


def test_the_pointer_sets_at_once_and_stays_inside_the_picture():
    seen = []

    def draw(at, gain=1):
        seen.append(at)
        return flat(gain)

    viewer = viewers.explore(draw, at=(2, 5), gain=(1, 4))
    seen.clear()
    viewer.pointed({"dataX": 11.7, "dataY": 6})
    viewer.pointed({"dataX": 400, "dataY": -3})
    viewer.pointed({"clientX": 1})
    assert seen == [(6, 11), (0, 19)]
    assert (viewer.inputs["row"].value, viewer.inputs["column"].value) == (0, 19)


def test_a_failing_drawing_says_so_and_the_next_one_draws_again():
    def draw(n=1):
        if n == 2:
            raise ValueError("no <such> layer")
        return flat(n)

    viewer = viewers.explore(draw, n=(1, 3))
    viewer.inputs["n"].value = 2
    assert "ValueError: no &lt;such&gt; layer" in viewer.caption.value
    viewer.inputs["n"].value = 3
    assert (decoded(viewer.views[0])[0, 0], viewer.caption.value) == (3, "")


def test_a_slow_drawing_waits_until_the_slider_is_let_go(monkeypatch):
    assert viewers.explore(flat, level=(0, 15)).inputs["level"].continuous_update
    monkeypatch.setattr(viewers, "SLOW", 0.0)
    viewer = viewers.explore(lambda at, level=3: flat(level), at=(0, 0), level=(0, 15))
    assert not viewer.inputs["level"].continuous_update
    assert viewer.pointer.watched_events == ["click"]


@pytest.mark.parametrize(
    ("draw", "controls", "error", "message"),
    [
        (flat, {"levle": (0, 3)}, TypeError, "draw takes no argument levle; it takes level, rows"),
        (flat, {"level": "high"}, TypeError, r"level must be \(low, high\), .* got 'high'"),
        (flat, {"level": []}, ValueError, r"level starts at 3, which is no choice of \[\]"),
        (flat, {"level": (5, 9)}, ValueError, r"level starts at 3, which is no choice of \(5, 9\)"),
        (flat, {"level": [1, 2]}, ValueError, r"level starts at 3, which is no choice of \[1, 2\]"),
        (lambda k=1: "text", {"k": (0, 2)}, TypeError, "draw must return pictures or figures, got str"),
        (lambda k=1: np.zeros((2, 2)), {"k": (0, 2)}, ValueError, r"a picture must be uint8 .* got float64 \(2, 2\)"),
        (flat, {"at": (0, 0)}, TypeError, "draw takes no argument at"),
        (lambda at: flat(), {"at": (0, 20)}, ValueError, r"at must lie in the picture of 8x20, got \(0, 20\)"),
        (3, {}, TypeError, "3 is not a callable object"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_wrong_use_is_named(draw, controls, error, message):
    with pytest.raises(error, match=message):
        viewers.explore(draw, **controls)


def test_without_a_kernel_a_sentence_says_what_there_is_to_move():
    viewer = viewers.explore(flat, level=(0, 15), rows=[4, 8])
    bundle = viewer._repr_mimebundle_()
    assert bundle["text/plain"] == "Interactive where a kernel is running: level, rows."
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.fixture
def combinations():
    rows = [("y", 32.35, ""), ("rgb", 30.44, "RGB")]
    table = pd.DataFrame(rows, columns=["space", "psnr", "changes"])
    table.attrs = {"dataset": "set5", "scale": 4}
    return table


def test_a_typed_number_is_explained(combinations):
    viewer = viewers.explained(combinations, 30.44)
    assert viewer.labels() == ["reported (dB)", "tolerance"]
    before = decoded(viewer.views[0])
    said = "all within 0.05 dB have in common: RGB. the best single change, RGB: -1.910 of -1.910 dB"
    assert viewer.caption.value == said
    viewer.inputs["reported"].value = 32.35
    assert viewer.caption.value == "nothing to explain: it is what the default protocol gives"
    assert (decoded(viewer.views[0]) != before).any()
    viewer.inputs["reported"].value = 30.30
    assert viewer.caption.value.startswith("no combination is within 0.05 dB")
    viewer.inputs["tolerance"].value = 0.2
    assert viewer.caption.value.startswith("all within 0.2 dB have in common: RGB")


# --- compare ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trio():
    rng = np.random.default_rng(0)
    truth = rng.integers(64, 192, (60, 90, 3), dtype=np.uint8)
    return {"worse": truth + 20, "better": truth + 4}, truth


def test_left_of_the_edge_is_one_picture_and_right_of_it_the_other(trio):
    pictures, truth = trio
    viewer = viewers.compare(pictures, truth)
    viewer.inputs["edge"].value = 30
    viewer.move_to(45, 60)
    whole = decoded(viewer.views[0])
    assert whole.shape == (60, 90, 3)
    np.testing.assert_array_equal(whole[:10, :27], pictures["worse"][:10, :27])
    np.testing.assert_array_equal(whole[:10, 28:], pictures["better"][:10, 28:])
    assert (whole[:10, 27] == 255).all()
    viewer.inputs["left"].value = "ground truth"
    np.testing.assert_array_equal(decoded(viewer.views[0])[:10, :27], truth[:10, :27])


def test_the_caption_has_the_psnr_of_the_whole_picture(trio):
    pictures, truth = trio
    caption = viewers.compare(pictures, truth).caption.value
    # a shift of all channels by d grey levels shifts the luma by d * (235 - 16) / 255
    expected = [10 * np.log10(255**2 / (d * 219 / 255) ** 2) for d in (20, 4)]
    assert caption == f"left: worse {expected[0]:.2f} dB | right: better {expected[1]:.2f} dB"
    assert "equal" in viewers.compare({"a": truth}, truth).caption.value


def test_pictures_in_an_order_have_a_slider(trio):
    pictures, truth = trio
    viewer = viewers.own_picture(truth, lambda x: (pictures, x), slider=True).comparer
    viewer.inputs["edge"].value = 0
    viewer.move_to(45, 60)
    np.testing.assert_array_equal(decoded(viewer.views[0])[:10], pictures["better"][:10])
    viewer.inputs["right"].index = 0
    np.testing.assert_array_equal(decoded(viewer.views[0])[:10], pictures["worse"][:10])
    assert [type(viewer.inputs[side]).__name__ for side in ("left", "right")] == ["Dropdown", "SelectionSlider"]


def test_the_crops_lie_under_the_pointer_enlarged_to_the_pixel(trio):
    pictures, truth = trio
    viewer = viewers.compare(pictures, truth)
    viewer.inputs["zoom"].value = 8  # 18 pixels
    viewer.move_to(30, 50)
    sheet = decoded(viewer.views[1])
    first = sheet[18 : 18 + 144, 1 : 1 + 144]
    np.testing.assert_array_equal(first, pictures["worse"][21:39, 41:59].repeat(8, 0).repeat(8, 1))
    viewer.move_to(0, 0)
    np.testing.assert_array_equal(decoded(viewer.views[1])[18, 1], pictures["worse"][0, 0])


def test_the_error_map_is_gray_where_equal_and_ends_at_its_limit():
    truth = np.full((1, 4), 100, np.uint8)
    shown = viewers.error_map(np.array([[100, 116, 132, 40]], np.uint8)[..., None], truth[..., None])
    assert shown.tolist() == [[128, 191, 255, 0]]


@pytest.mark.parametrize(
    ("pictures", "truth", "message"),
    [
        ({}, flat(), "at least one picture"),
        ({"a": flat(), "b": flat(rows=9)}, flat(), "one size, got a 8x20, b 9x20, ground truth 8x20"),
        ({"a": flat()}, flat(rows=9), "one size, got a 8x20, ground truth 9x20"),
        ({"a": flat() / 255}, flat(), "a must be uint8"),
    ],
    ids=["none", "sizes", "truth", "float"],
)
def test_pictures_that_cannot_be_compared_are_refused(pictures, truth, message):
    with pytest.raises(ValueError, match=message):
        viewers.compare(pictures, truth)


# --- own picture ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own():
    return viewers.own_picture(np.full((40, 60, 3), 9, np.uint8), lambda x: ({"inverted": 255 - x}, x), side=32)


def test_an_uploaded_picture_takes_the_place_of_the_default(own):
    assert decoded(own.comparer.views[0]).shape == (32, 32, 3)
    noise = np.random.default_rng(1).integers(0, 256, (50, 44, 3), dtype=np.uint8)
    own.upload.value = (file(as_file(noise)),)
    own.comparer.inputs["edge"].value = 100
    own.comparer.inputs["zoom"].value = 8
    own.comparer.move_to(31, 31)
    assert own.comparer is own.children[1]
    np.testing.assert_array_equal(decoded(own.comparer.views[0])[:4, :4], 255 - noise[9:13, 6:10])
    assert own.message.value == "photo.png, 44x50"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"GIF89a nothing", "x.gif", "cannot decode x.gif"),
        (b"", "empty.png", "cannot decode empty.png"),
        (b"<script>", "<b>.png", "cannot decode &lt;b&gt;.png"),
        (as_file(flat(1, 8)), "small.png", "small.png is 20x8; at least 16 pixels"),
        (bytes(viewers.UPLOAD_LIMIT + 1), "large.png", "large.png has 8.0 MB; at most 8 MB are taken"),
    ],
    ids=["no picture", "empty", "markup", "small", "large"],
)
def test_a_file_that_will_not_do_changes_only_the_message(own, content, name, message):
    before = own.comparer
    own.upload.value = (file(content, name),)
    assert message in own.message.value
    assert "/" not in own.message.value.replace("</b>", "")  # nothing of the kernel's folders
    assert own.comparer is before


def test_formats_of_cameras_are_read_upright_and_with_what_is_lost():
    turned = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    picture, notes = viewers.decode(buffer.getvalue(), "p.jpg")
    assert (picture.shape, notes) == ((30, 20, 3), ())
    buffer = io.BytesIO()
    turned.convert("CMYK").save(buffer, "JPEG")
    assert viewers.decode(buffer.getvalue(), "p.jpg")[1] == ("CMYK was converted to RGB",)


def test_the_middle_is_cut_out_and_not_shrunk():
    picture = np.arange(40 * 50, dtype=np.int64).reshape(40, 50)
    np.testing.assert_array_equal(viewers.middle(picture, 20), picture[10:30, 15:35])
    assert viewers.middle(picture, 64).shape == (40, 50)


def test_numbers_become_gray_levels_between_their_limits():
    assert viewers.to_gray([[-9, -1, 0, 1, 9]], -1, 1).tolist() == [[0, 0, 128, 255, 255]]
    with pytest.raises(ValueError, match="high must be above low"):
        viewers.to_gray([[0]], 1, 1)
