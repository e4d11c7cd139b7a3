"""Things to try in a notebook: sliders beside a picture, two pictures behind one edge, one's own picture.

Python draws everything, ``ipywidgets`` shows it as PNG, ``ipyevents`` follows the pointer; nothing is fetched from the
network. A viewer is the last expression of a cell, after a static figure for readers without a kernel::

    viewers.explore(lambda alpha=1.0: (to_gray(power(alpha), -3, 3), f"alpha {alpha:g}"), alpha=(0.1, 4.0, 0.05))
    viewers.own_picture(photograph, lambda x: ({"bicubic": up(x), "BSRN": net(x)}, x))

The front end sends no new value before the last one is drawn, so slow drawings do not pile up.
"""

from __future__ import annotations

import contextlib
import html
import inspect
import io
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from nsrlib import explain
from nsrlib.metrics import psnr
from nsrlib.pictures import read_picture
from nsrlib.plots import figures
from nsrlib.plots.style import RED

Picture = np.ndarray
"""``uint8``, ``(H, W, 3)`` RGB or ``(H, W)`` gray."""
Drawing = Picture | Figure | Sequence[Picture | Figure | str]
"""What ``draw`` of :func:`explore` gives: a picture, a figure or several, side by side; a last string, the caption."""

Make = Callable[[Picture], tuple[Mapping[str, Picture], Picture]]

SLOW = 0.25
"""Seconds of one drawing above which a slider redraws when it is let go."""
UPLOAD_LIMIT = 8_000_000
"""Bytes of an uploaded file; Jupyter's own server closes the connection at 10 MiB."""


def to_gray(plane: Any, low: float, high: float) -> Picture:
    """``(H, W)`` numbers as ``uint8``: ``low`` and below black, ``high`` and above white."""
    if not high > low:
        raise ValueError(f"high must be above low, got {low} and {high}")
    share = (np.clip(np.asarray(plane, dtype=np.float64), low, high) - low) / (high - low)
    return np.round(255 * share).astype(np.uint8)


class Explorer(widgets.VBox):
    """What :func:`explore` returns: widgets, pictures, and a caption that also says why a drawing failed."""

    pointer: Any = None

    def __init__(self, draw: Callable[..., Drawing], inputs: Mapping[str, Any], at: bool, width: int) -> None:
        self.inputs, self._draw, self._at = dict(inputs), draw, at
        self.caption = widgets.HTML()
        self._busy = False
        begin = time.perf_counter()
        first, text = _parts(draw(**self._arguments()))
        slow = time.perf_counter() - begin > SLOW
        self.views = [widgets.Image(value=png(one), format="png") for one in first]
        for view in self.views:
            view.layout.max_width = f"min({width}px, 100%)"
        self.caption.value = text
        for control in self.inputs.values():
            control.style.description_width = "initial"
            if slow and "continuous_update" in control.trait_names():
                control.continuous_update = False
            control.observe(self._redraw, "value")
        flow = widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="4px 12px")
        boxes = [widgets.Box(content, layout=flow) for content in (list(self.inputs.values()), self.views)]
        super().__init__([*boxes, self.caption])
        if at:
            from ipyevents import Event

            watched = ["click" if slow else "mousemove"]
            self.pointer = Event(source=self.views[0], watched_events=watched, wait=60, throttle_or_debounce="throttle")
            self.pointer.on_dom_event(self.pointed)

    def _arguments(self) -> dict[str, Any]:
        values = {name: control.value for name, control in self.inputs.items()}
        return {"at": (values.pop("row"), values.pop("column")), **values} if self._at else values

    def _redraw(self, _: Any = None) -> None:
        if self._busy:
            return
        try:
            pictures, self.caption.value = _parts(self._draw(**self._arguments()))
            for view, picture in zip(self.views, pictures, strict=True):
                view.value = png(picture)
        except Exception as error:  # nothing else would show it: a callback has no cell
            self.caption.value = _problem(error)

    def move_to(self, row: int, column: int) -> None:
        """Set ``at``, clipped to the picture, and draw once."""
        self._busy = True
        for name, value in (("row", row), ("column", column)):
            control = self.inputs[name]
            control.value = min(max(value, control.min), control.max)
        self._busy = False
        self._redraw()

    def pointed(self, event: Mapping[str, Any]) -> None:
        """Follow an event of ``ipyevents`` over the first picture."""
        if "dataX" in event:  # not beside the picture
            self.move_to(int(event["dataY"]), int(event["dataX"]))

    def labels(self) -> list[str]:
        return [control.description or name for name, control in self.inputs.items()]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return _bundle(super()._repr_mimebundle_(**kwargs), self.labels())


def _bundle(bundle: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    return bundle | {"text/plain": f"Interactive where a kernel is running: {', '.join(labels)}."}


def explore(
    draw: Callable[..., Drawing], *, at: tuple[int, int] | None = None, width: int = 640, **controls: Any
) -> Explorer:
    """Sliders and menus that set the arguments of ``draw``, and what it draws, which is always as many pictures.

    Args:
        at: starting (row, column) of the pointer in pixels of the first picture, passed to ``draw`` as ``at``. It
            follows the pointer over that picture, clicks only if drawing is slow, and has two sliders.
        width: largest width of a picture on the screen, in CSS pixels.
        controls: ``(low, high)`` or ``(low, high, step)``: a slider, of integers if all are; a list or a mapping of
            labels to values: a menu; True or False: a box to tick; or any widget with a value. It starts at the default
            of ``draw``'s argument, if that has one.

    Raises:
        TypeError: ``draw`` takes no such argument, or a control is none of the above.
        ValueError: a default lies outside its control.
    """
    parameters = inspect.signature(draw).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wanted = {*controls, *(["at"] if at else [])}
    if unknown := sorted(wanted - set(parameters)) if not takes_any else []:
        raise TypeError(f"draw takes no argument {', '.join(unknown)}; it takes {', '.join(parameters) or 'none'}")
    inputs = {name: _control(name, spec, parameters.get(name)) for name, spec in controls.items()}
    if at is not None:
        first = _parts(draw(**{n: c.value for n, c in inputs.items()}, at=at))[0][0]
        h, w = first.shape[:2] if isinstance(first, np.ndarray) else (10_000, 10_000)
        for name, value, size in (("row", at[0], h), ("column", at[1], w)):
            if not 0 <= value < size:
                raise ValueError(f"at must lie in the picture of {h}x{w}, got {at}")
            inputs[name] = widgets.IntSlider(value=value, max=size - 1, description=name)
    return Explorer(draw, inputs, at is not None, width)


def _control(name: str, spec: Any, parameter: inspect.Parameter | None) -> Any:
    control: Any = None
    if isinstance(spec, bool):
        control = widgets.Checkbox(value=spec, indent=False)
    elif isinstance(spec, widgets.Widget | Sequence | Mapping) and not isinstance(spec, str):
        control = widgets.interactive.widget_from_abbrev(spec)
    if control is None:
        kinds = "(low, high), (low, high, step), a list, a mapping, a bool or a widget"
        raise TypeError(f"{name} must be {kinds}, got {spec!r}")
    control.description = control.description or name.replace("_", " ")
    given = isinstance(spec, bool | widgets.Widget) or parameter is None or parameter.default is parameter.empty
    if parameter is not None and not given:
        with contextlib.suppress(Exception):  # a menu raises, a slider takes its nearest end
            control.value = parameter.default
        if control.value != parameter.default:
            raise ValueError(f"{name} starts at {parameter.default!r}, which is no choice of {spec!r}")
    return control


def _parts(drawn: Drawing) -> tuple[list[Picture | Figure], str]:
    """Pictures and caption (HTML) of what a ``draw`` returned."""
    parts: list[Any] = [drawn] if isinstance(drawn, np.ndarray | Figure) else list(drawn)
    text = html.escape(str(parts.pop())) if parts and isinstance(parts[-1], str) else ""
    if not parts or not all(isinstance(one, np.ndarray | Figure) for one in parts):
        raise TypeError(f"draw must return pictures or figures, got {type(drawn).__name__}")
    return parts, text


def png(picture: Picture | Figure) -> bytes:
    """A picture or a figure as a PNG file; a figure is closed, so that no later cell shows it again."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png")
        plt.close(picture)
    else:
        _check(picture, "a picture")
        Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _check(picture: Any, name: str) -> None:
    good = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.size
    if not good or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
        what = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(f"{name} must be uint8 (H, W) or (H, W, 3), got {what}")


def _problem(error: BaseException) -> str:
    return f'<b style="color:{RED}">{html.escape(f"{type(error).__name__}: {error}")}</b>'


def explained(table: pd.DataFrame, reported: float) -> Explorer:
    """A number to type: which choices of protocol explain it, see :mod:`nsrlib.explain`.

    Args:
        table: of :func:`nsrlib.explain.measured`.
        reported: dB, where it starts.
    """

    def draw(reported: float, tolerance: float = 0.05) -> Drawing:
        caption = ". ".join(explain.conclusion(table, reported, tolerance))
        return figures.explained(table, reported, tolerance), caption

    number = widgets.BoundedFloatText(value=reported, min=0, max=100, step=0.01, description="reported (dB)")
    return explore(draw, width=_WIDE, reported=number, tolerance=(0.01, 0.2, 0.01))


_WIDE = 860
_WHOLE, _TILE = 384, 144  # screen pixels: the picture, and a zoomed crop; side by side they fit a page of 860


def compare(pictures: Mapping[str, Picture], truth: Picture, *, slider: bool = False) -> Explorer:
    """Two of several pictures behind one edge, and under the pointer the same crop of both, enlarged, with its error.

    Left of the edge is one picture, right of it the other; the slider moves the edge. In the map of the error gray is
    no difference to the truth, 32 levels are white or black. The caption has the PSNR of luma, nothing cropped.

    Args:
        pictures: label -> ``uint8`` ``(H, W, 3)``, at least one, all of one size.
        truth: the same size; also one of the choices.
        slider: choose the right picture by a slider over all instead of a menu, for pictures that have an order.
    """
    if not pictures:
        raise ValueError("pictures must hold at least one picture")
    shown = {**pictures, "ground truth": truth}
    for label, picture in shown.items():
        _check(picture, label)
    h, w = truth.shape[:2]
    if any(picture.shape != truth.shape for picture in shown.values()):
        sizes = (f"{label} {'x'.join(map(str, picture.shape[:2]))}" for label, picture in shown.items())
        raise ValueError(f"pictures must have one size, got {', '.join(sizes)}")
    labels = list(shown)
    equal = {label: np.array_equal(picture, truth) for label, picture in pictures.items()}
    scores = {k: "equal" if equal[k] else f"{psnr(shown[k], truth):.2f} dB" for k in pictures}

    def draw(left: str, right: str, edge: float, zoom: int, at: tuple[int, int]) -> Drawing:
        a, b = shown[left], shown[right]
        x = round(w * edge / 100)
        side = min(_TILE // zoom, h, w)
        top, start = (min(max(p - side // 2, 0), size - side) for p, size in zip(at, (h, w), strict=True))
        crop = np.s_[top : top + side, start : start + side]
        tiles = {left: a[crop], right: b[crop], "ground truth": truth[crop]}
        tiles |= {f"error of {one}": error_map(shown[one][crop], truth[crop]) for one in (left, right)}
        whole = _marked(np.concatenate([a[:, :x], b[:, x:]], 1), x, (top, start, side))
        return whole, _sheet(tiles), f"left: {left} {scores.get(left, '')} | right: {right} {scores.get(right, '')}"

    names = widgets.Dropdown(options=labels, value=labels[0], description="left")
    kind = widgets.SelectionSlider if slider else widgets.Dropdown
    other = kind(options=labels, value=labels[max(len(pictures) - 1, 1)], description="right")
    edge = widgets.FloatSlider(value=50, min=0, max=100, step=1, description="edge (%)", readout_format=".0f")
    zoom = widgets.Dropdown(options={"x2": 2, "x4": 4, "x8": 8}, value=4, description="zoom")
    return explore(draw, at=(h // 2, w // 2), width=_WHOLE, left=names, right=other, edge=edge, zoom=zoom)


def error_map(picture: Picture, truth: Picture, limit: int = 32) -> Picture:
    """``picture - truth`` of the channels' mean as gray: 128 where equal, black and white at ``limit`` levels."""
    return to_gray((picture.astype(np.float64) - truth).mean(2), -limit, limit)


def _marked(picture: Picture, edge: int, square: tuple[int, int, int]) -> Picture:
    canvas = Image.fromarray(np.ascontiguousarray(picture))
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(picture.shape[1] / _WHOLE))
    top, left, side = square
    if 0 < edge < picture.shape[1]:
        pen.line([(edge, 0), (edge, picture.shape[0])], fill="white", width=line)
    pen.rectangle([left, top, left + side - 1, top + side - 1], outline=RED, width=line)
    return np.asarray(canvas)


def _sheet(tiles: Mapping[str, Picture], columns: int = 3) -> Picture:
    font = ImageFont.load_default(size=12)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (_TILE + 6), rows * (_TILE + 22)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (label, tile) in enumerate(tiles.items()):
        x, y = 1 + k % columns * (_TILE + 6), k // columns * (_TILE + 22)
        pen.text((x, y + 2), label, fill="black", font=font)
        sheet.paste(Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.NEAREST), (x, y + 18))
        pen.rectangle([x - 1, y + 17, x + _TILE, y + 18 + _TILE], outline="#bbbbbb")
    return np.asarray(sheet)


class OwnPicture(widgets.VBox):
    """What :func:`own_picture` returns: the upload, a message and the present comparer."""

    def __init__(self, default: Picture, make: Make, side: int, slider: bool) -> None:
        self._make, self._side, self._slider = make, side, slider
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
        limits = f"up to {UPLOAD_LIMIT // 10**6} MB; the middle {side}x{side} pixels are used; only the kernel sees it"
        self.message = widgets.HTML(limits)
        self.comparer = self._compared(default)
        self._top = widgets.HBox([self.upload, self.message])
        super().__init__([self._top, self.comparer])
        self.upload.observe(self._read, "value")

    def _compared(self, picture: Picture) -> Explorer:
        return compare(*self._make(middle(picture, self._side)), slider=self._slider)

    def _read(self, _: Any) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[0]
        try:
            self.message.value = f"{html.escape(file['name'])}: working ..."
            picture, notes = decode(bytes(file["content"]), file["name"])
            self.comparer = self._compared(picture)
            self.children = [self._top, self.comparer]
            h, w = picture.shape[:2]
            self.message.value = html.escape("; ".join([f"{file['name']}, {w}x{h}", *notes]))
        except Exception as error:
            self.message.value = _problem(error)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return _bundle(super()._repr_mimebundle_(**kwargs), ["your own picture", *self.comparer.labels()])


def own_picture(default: Picture, make: Make, *, side: int = 384, slider: bool = False) -> OwnPicture:
    """:func:`compare` on a picture that the reader uploads; until then on ``default``.

    Args:
        default: ``uint8`` ``(H, W, 3)``.
        make: from a picture of at most ``side`` pixels each way to the pictures to compare and the truth.
        side: larger pictures are cut to their middle, not shrunk: a shrunk picture is sharper than a photograph.
        slider: see :func:`compare`.

    A file that is too large or no picture changes nothing but the message.
    """
    _check(default, "default")
    if side < 16:
        raise ValueError(f"side must be at least 16 pixels, got {side}")
    return OwnPicture(default, make, side, slider)


def middle(picture: Picture, side: int) -> Picture:
    """The middle of a picture, at most ``side`` pixels each way."""
    h, w = picture.shape[:2]
    top, left = max(h - side, 0) // 2, max(w - side, 0) // 2
    return picture[top : top + side, left : left + side]


def decode(content: bytes, name: str) -> tuple[Picture, tuple[str, ...]]:
    """An uploaded file as a picture, ``uint8`` ``(H, W, 3)``, and what was lost on the way, in words.

    Raises:
        ValueError: too large, no picture, or smaller than 16 pixels.
    """
    if len(content) > UPLOAD_LIMIT:
        raise ValueError(f"{name} has {len(content) / 1e6:.1f} MB; at most {UPLOAD_LIMIT / 1e6:.0f} MB are taken")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"  # the sender's name is not to be trusted; Pillow goes by the content
        path.write_bytes(content)
        try:
            picture = read_picture(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from None
    levels = picture.rgb_u8
    if min(levels.shape[:2]) < 16:
        raise ValueError(f"{name} is {levels.shape[1]}x{levels.shape[0]}; at least 16 pixels each way are needed")
    return levels, picture.notes
