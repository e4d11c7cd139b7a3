"""Measured cells: what a network with known weights reaches on a known data set, kept once and read everywhere.

``pd.read_csv("data/results/cells.csv")`` has a row for each image:

==============================================  ======================================================================
columns                                         what they say
==============================================  ======================================================================
model, scale, weights                           ``create_model`` builds it; ``published``, ``trained`` here, or
                                                ``none`` (bicubic)
set, protocol, setting                          :func:`nsrlib.data.load`, :class:`~nsrlib.metrics.Protocol`,
                                                :class:`~nsrlib.evaluation.Setting`
image, psnr, ssim, pixels_sha256                of the network's picture, see :func:`nsrlib.images.pixels_sha256`
weights_sha256, data_sha256, code_sha256        of the file of weights, of :attr:`ImageSet.sha256
                                                <nsrlib.data.ImageSet.sha256>`, of :func:`code_sha256`
device, isa, threads, torch, commit             where and by what it was measured
==============================================  ======================================================================

The first six columns name a cell; there is one of each name. With the three hashes they are its key: what the numbers
depend on. The configuration of a network follows from its name, its weights and its code.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from nsrlib import data, files, layers
from nsrlib.data import DataUnavailable
from nsrlib.data.catalogue import key_of
from nsrlib.evaluation import Setting, evaluate, takes_gray
from nsrlib.metrics import GRAY, MATLAB_Y, RGB, VDSR_Y, Protocol
from nsrlib.models import PUBLISHED, WEIGHTS_DIR, create_model

FILE = files.ROOT / "data" / "results" / "cells.csv"
NAME = ["model", "scale", "weights", "set", "protocol", "setting"]
KEY = [*NAME, "weights_sha256", "data_sha256", "code_sha256"]
COLUMNS = [*NAME, "image", "psnr", "ssim", "pixels_sha256", *KEY[6:], "device", "isa", "threads", "torch", "commit"]
PSNR, SSIM = 1e-3, 1e-5
"""Largest difference between two measurements of one cell that agree: dB, and SSIM."""

OWN_WAY: dict[str, tuple[Callable[[int], Protocol], str]] = {
    "imdn": (MATLAB_Y, "mirror"),
    **dict.fromkeys(("bicubic", "srcnn", "vdsr"), (VDSR_Y, "luma")),
}
"""Network -> protocol by scale and LR images (:func:`nsrlib.data.load`) with which later papers' numbers came about."""


@dataclass(frozen=True)
class Cell:
    """The name of a cell: which network with which weights, on which set, under which protocol and setting.

    Example:
        >>> print(Cell("bicubic", 4, "none", "embedded", "v1:y,crop=4", "v1:scale=4"))
        bicubic x4 on embedded, v1:y,crop=4, v1:scale=4
    """

    model: str
    scale: int
    weights: str
    set: str
    protocol: str
    setting: str

    def __str__(self) -> str:
        trained = ", trained here" if self.weights == "trained" else ""
        return f"{self.model} x{self.scale}{trained} on {self.set}, {self.protocol}, {self.setting}"

    @property
    def weights_sha256(self) -> str:
        """Of the file of weights, which need not be at hand if it is published; ``none`` for a network without."""
        if self.weights == "none":
            return "none"
        if self.weights == "trained":
            return files.sha256_of(WEIGHTS_DIR / f"{self.model}_x{self.scale}.safetensors")
        return data.sources()[f"weights/{PUBLISHED[self.model, self.scale]}"].sha256

    @property
    def code_sha256(self) -> str:
        """See :func:`code_sha256`."""
        return code_sha256(_network(self.model, self.scale))

    def images(self, download: bool = True) -> data.ImageSet:
        """The set as the network gets it. DataUnavailable if it cannot be had."""
        setting = Setting.parse(self.setting)
        gray = takes_gray(_network(self.model, self.scale)) if setting.restores else None
        return data.load(self.set, self.scale, lr=setting.lr, gray=gray, download=download)

    def network(self) -> nn.Module:
        """With its weights. DataUnavailable if they cannot be had."""
        pretrained = {"none": False, "trained": True}.get(self.weights, self.weights)
        return create_model(self.model, self.scale, pretrained=pretrained)

    def measure(self, device: str = "auto", limit: int | None = None, download: bool = True) -> pd.DataFrame:
        """:func:`~nsrlib.evaluation.evaluate` of this cell. DataUnavailable if the weights or the set cannot be had."""
        how: dict[str, Any] = asdict(Setting.parse(self.setting))
        protocol = Protocol.parse(self.protocol)
        return evaluate(self.network(), self.images(download), protocol=protocol, device=device, limit=limit, **how)


@cache
def _network(name: str, scale: int) -> nn.Module:
    """The network without its weights, and without memory for them."""
    with torch.device("meta"):
        return create_model(name, scale)


def code_sha256(network: nn.Module) -> str:
    """Hash of the code that a cell's numbers follow from; comments, docstrings and layout do not count.

    These are the files of the network's class, ``layers.py``, ``images.py``, ``metrics.py`` and ``evaluation.py``. Not
    covered: PyTorch (``torch`` says which), the operators of :mod:`nsrlib.ops`, which are tested against their
    references, and how data are read, since their pixels have a hash. ``nsr verify`` finds what any of these changes.
    """
    package = Path(layers.__file__).parent
    shared = [package / f"{name}.py" for name in ("layers", "images", "metrics", "evaluation")]
    return syntax_sha256([Path(inspect.getfile(type(network))), *shared])


def syntax_sha256(paths: Iterable[Path]) -> str:
    """Hash of what Python files do: their syntax trees without texts that stand alone. Equal in all Python versions."""
    trees = [_tree_sha256(path, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(" ".join(trees).encode()).hexdigest()


@cache
def _tree_sha256(path: Path, changed: int) -> str:
    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(one) for one in node if not _is_text(one)]
        if not isinstance(node, ast.AST):
            return repr(node)
        # fields without content, which later versions of Python add, do not count
        return [type(node).__name__, [(k, plain(v)) for k, v in ast.iter_fields(node) if v is not None and v != []]]

    return hashlib.sha256(repr(plain(ast.parse(path.read_bytes()))).encode()).hexdigest()


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def stored() -> pd.DataFrame:
    """All rows of ``data/results/cells.csv``; none where it does not exist."""
    if not FILE.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(FILE, dtype={"image": str})


def _of(cell: Cell, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cell, in the order of its images."""
    return rows[(rows[NAME] == list(astuple(cell))).all(axis=1)]


def rows_of(cell: Cell, table: pd.DataFrame) -> pd.DataFrame:
    """:meth:`Cell.measure`'s table of a whole set as rows to :func:`store`."""
    where = torch.device(table.attrs["device"])
    cpu = where.type == "cpu"
    hashes = {name: getattr(cell, name) for name in ("weights_sha256", "code_sha256")}
    return table.assign(
        **asdict(cell),
        **hashes,
        data_sha256=table.attrs["sha256"],
        device=files.cpu_name() if cpu else torch.cuda.get_device_name(where),
        isa=torch.backends.cpu.get_cpu_capability() if cpu else "",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=files.code_commit(),
    )[COLUMNS]


def store(rows: pd.DataFrame) -> Path:
    """Add the rows of whole cells to ``data/results/cells.csv``, in place of those of the same names."""
    kept, rows = stored(), rows.drop_duplicates([*NAME, "image"])
    new = pd.MultiIndex.from_frame(rows[NAME])
    kept = kept[~pd.MultiIndex.from_frame(kept[NAME]).isin(new)]
    # images stay in the order of their set
    table = pd.concat([part for part in (kept, rows[COLUMNS]) if len(part)]).sort_values(NAME, kind="stable")
    table = table.astype({"scale": int, "threads": int}).round({"psnr": 6, "ssim": 8})
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(FILE) as draft:
        table.to_csv(draft, index=False, lineterminator="\n")
    return FILE


def weights_of(model: str, asked: str) -> str:
    """What stands under ``weights`` in a cell: as asked (``published``, ``trained``), but ``none`` for bicubic.

    Raises:
        ValueError: a file of somebody else, which nobody could measure again.
    """
    if asked not in ("published", "trained"):
        raise ValueError(f"cells are kept of weights that are 'published' or 'trained', got {asked!r}")
    return "none" if model == "bicubic" else asked


def check_keepable(model: str, weights: str, sets: Sequence[str], limit: int | None) -> None:
    """Raise a ValueError unless :func:`keep` could take such tables: whole sets that have a name, known weights."""
    weights_of(model, weights)
    if limit is not None:
        raise ValueError(f"cells are kept of whole sets, got limit={limit}")
    if folders := [name for name in sets if key_of(name) is None]:
        raise ValueError(f"cells are kept of named sets, see 'nsr data list', got {folders[0]!r}")


def keep(model: str, weights: str, tables: Iterable[pd.DataFrame]) -> None:
    """Store :func:`~nsrlib.evaluation.evaluate`'s tables of one network, see :func:`check_keepable`."""
    rows = []
    for table in tables:
        dataset, scale, protocol, setting = (table.attrs[k] for k in ("dataset", "scale", "protocol", "setting"))
        cell = Cell(model, scale, weights_of(model, weights), dataset, protocol, setting)
        rows.append(rows_of(cell, table))
    store(pd.concat(rows))


def measured(
    entries: Sequence[tuple[str, str, int]],
    sets: Sequence[str],
    *,
    protocol: Protocol | Callable[[int], Protocol] | None = None,
    weights: str = "published",
    limit: int = 0,
    recompute: bool = False,
    device: str = "auto",
    download: bool = True,
    **setting: Any,
) -> pd.DataFrame:
    """Networks with released weights on data sets: what is stored, and measured now where that is missing.

    A stored cell counts if weights, code and, where they are at hand, data have the hashes of its key. Otherwise it is
    measured; if that cannot be done here, it is shown with a word of what could not be compared.

    Args:
        entries: (label, model name, scale) of each row, for example ``("BSRN", "bsrn", 4)``.
        sets: names as in :func:`nsrlib.data.load`.
        protocol: or a function of the scale, like ``VDSR_Y``; default: that of :func:`~nsrlib.evaluation.evaluate`.
        weights: ``published``, or ``trained``: this library's small ones.
        limit: only the first so many images of each set; 0: all.
        recompute: measure all that can be measured here, whatever is stored.
        download: whether a set that is not at hand may be fetched.
        setting: lr, noise, jpeg, ... of :func:`~nsrlib.evaluation.evaluate`.

    Returns:
        A row for each network and set: model (the label), scale, set, psnr, ssim (means over images), images, origin,
        protocol, setting. ``origin`` is ``stored``, ``stored, data not at hand``, ``stored, by older code``, or that of
        the images that were measured now. ``attrs["missing"]`` lists in words what is neither stored nor at hand,
        ``attrs["note"]`` is one sentence of all this, ``attrs["tables"]`` holds the images of each (label, scale, set).

    Example:
        >>> table = measured([("Bicubic", "bicubic", 4)], ["embedded"])
        >>> table[["model", "scale", "set", "images"]].values.tolist()
        [['Bicubic', 4, 'embedded', 2]]
    """
    kept, rows, tables = stored(), [], {}
    missing: dict[str, None] = {}  # an ordered set
    for label, model, scale in entries:
        given = protocol(scale) if callable(protocol) else protocol
        asked = Setting(scale, **{"lr": given.lr if given else "paper"} | setting)
        if given is None and asked.restores:
            usual = GRAY() if takes_gray(_network(model, scale)) else RGB()
        else:
            usual = given or MATLAB_Y(crop=scale)
        for name in sets:
            place = (weights_of(model, weights), key_of(name) or str(name))
            cell = Cell(model, scale, *place, usual.signature, asked.signature)
            try:
                table = _stored_or_measured(cell, kept, recompute, limit or None, device, download)
            except DataUnavailable as error:
                missing[_what(error)] = None
                continue
            tables[label, scale, name] = table
            about = {"model": label, "scale": scale, "set": name, **table[["psnr", "ssim"]].mean()}
            rows.append(about | {"images": len(table)} | {k: table.attrs[k] for k in ("origin", "protocol", "setting")})
    columns = ["model", "scale", "set", "psnr", "ssim", "images", "origin", "protocol", "setting"]
    result = pd.DataFrame(rows, columns=columns)
    counts = result["origin"].where(result["origin"].str.startswith("stored"), "measured now").value_counts(sort=False)
    note = "; ".join(f"{n} {origin}" for origin, n in counts.items()) or "nothing measured"
    note += f"; not at hand: {', '.join(missing)}." if missing else "."
    result.attrs = {"missing": list(missing), "note": note, "tables": tables}
    return result


def copied(rows: Mapping[str, str], scales: Sequence[int], **options: Any) -> pd.DataFrame:
    """Rows that a table takes from other papers, each network measured as :data:`OWN_WAY` says.

    Set5 and Set14, and B100 and Urban100 where they are at hand: they are not downloaded.

    Args:
        rows: row of the table -> network with released weights, one of :data:`OWN_WAY`.
        options: limit, recompute, device of :func:`measured`.

    Returns:
        As :func:`measured`, with row and column for its model and set: what :meth:`Ledger.cells
        <nsrlib.claims.Ledger.cells>` takes. ``attrs["missing"]`` is kept.

    Raises:
        ValueError: another network.

    Example:
        >>> table = copied({"Bicubic": "bicubic"}, [4])
        >>> table.columns[:4].tolist()
        ['row', 'scale', 'column', 'psnr']
    """
    if other := sorted(set(rows.values()) - set(OWN_WAY)):
        raise ValueError(f"rows must name networks of {', '.join(sorted(OWN_WAY))}, got {other[0]!r}")
    missing: dict[str, None] = {}
    found = [pd.DataFrame(columns=["model", "scale", "set"])]
    for row, model in rows.items():
        protocol, lr = OWN_WAY[model]
        entries = [(row, model, scale) for scale in scales]
        for sets, download in ((["set5", "set14"], True), (["b100", "urban100"], False)):
            table = measured(entries, sets, protocol=protocol, lr=lr, download=download, **options)
            missing |= dict.fromkeys(table.attrs["missing"])
            table.attrs = {}  # which pandas compares, and fails where they hold tables
            found.append(table)
    table = pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)
    table = table.rename(columns={"model": "row", "set": "column"})
    table.attrs = {"missing": list(missing)}
    return table


def _stored_or_measured(
    cell: Cell, kept: pd.DataFrame, recompute: bool, limit: int | None, device: str, download: bool
) -> pd.DataFrame:
    """:meth:`Cell.measure`'s columns and attrs. DataUnavailable if it is not stored and cannot be measured."""
    found, remarks = _of(cell, kept), []
    if len(found):
        key = found.iloc[0]
        remarks = ["by older code"] if key["code_sha256"] != cell.code_sha256 else []
        other = key["weights_sha256"] != cell.weights_sha256
        try:
            other |= key["data_sha256"] != cell.images(download=False).sha256
        except DataUnavailable:
            remarks.append("data not at hand")
        found = found.iloc[:0] if other else found
    if recompute or found.empty or "by older code" in remarks:
        try:
            return cell.measure(device, limit, download)
        except DataUnavailable:
            if found.empty:
                raise
    table = found[["image", "psnr", "ssim", "pixels_sha256"]].head(limit or len(found)).reset_index(drop=True)
    about = {"dataset": cell.set, "scale": cell.scale, "protocol": cell.protocol, "setting": cell.setting}
    table.attrs = about | {"origin": ", ".join(["stored", *remarks]), "sha256": found["data_sha256"].iloc[0]}
    return table


def _what(error: DataUnavailable) -> str:
    """The set or the file of weights that cannot be had."""
    return str(error).partition(":")[0]


Verdict = Literal["bit-equal", "agrees", "differs", "not at hand"]


@dataclass(frozen=True)
class Check:
    """A stored cell measured again; ``rows`` are the new ones, in the form of :func:`store`, none if not at hand."""

    cell: Cell
    verdict: Verdict
    about: str
    rows: pd.DataFrame

    def __str__(self) -> str:
        return f"{self.cell}: {self.verdict}, {self.about}"


def verify(model: str | None = None, on: Sequence[str] = (), device: str = "auto") -> Iterator[Check]:
    """Measure stored cells again, one after the other, whatever code measured them.

    PSNR within :data:`PSNR` and SSIM within :data:`SSIM` of every image agree.

    Args:
        model, on: only cells of this network, of these sets.

    Raises:
        ValueError: none of the stored cells is asked for; the message says which there are.

    Example:
        >>> [check.verdict for check in verify("bicubic", ["embedded"], "cpu")]
        ['bit-equal', 'bit-equal', 'bit-equal']
    """
    kept = stored()
    for what, wanted in (("model", [] if model is None else [model]), ("set", [key_of(name) or name for name in on])):
        if unknown := sorted(set(wanted) - set(kept[what])):
            there = ", ".join(sorted(set(kept[what]))) or "none at all"
            raise ValueError(f"no stored cell of the {what} {unknown[0]!r}; there are: {there}")
        kept = kept[kept[what].isin(wanted)] if wanted else kept
    if kept.empty:
        raise ValueError("no cells are stored: there is nothing to measure again")
    for _, rows in kept.groupby(NAME, sort=False):
        yield _check(Cell(*rows[NAME].to_numpy().tolist()[0]), rows, device)


def _check(cell: Cell, rows: pd.DataFrame, device: str) -> Check:
    none = rows.iloc[:0]
    if cell.weights_sha256 != rows["weights_sha256"].iloc[0]:
        return Check(cell, "differs", "the weights are others today", none)
    try:
        if cell.images().sha256 != rows["data_sha256"].iloc[0]:
            return Check(cell, "not at hand", "the images here are others", none)
        table = cell.measure(device)
    except DataUnavailable as error:
        return Check(cell, "not at hand", _what(error), none)
    new = rows_of(cell, table)
    old, now = rows.reset_index(drop=True), new.reset_index(drop=True)
    equal = int((old["pixels_sha256"] == now["pixels_sha256"]).sum())
    apart = pd.DataFrame({m: (old[m] - now[m]).abs().where(old[m] != now[m], 0) for m in ("psnr", "ssim")})
    wrong = apart[~((apart["psnr"] <= PSNR) & (apart["ssim"] <= SSIM))]
    if len(wrong):
        k: Any = wrong["psnr"].idxmax()
        then, today = (f"{t['psnr'][k]:.4f} dB, SSIM {t['ssim'][k]:.6f}" for t in (old, now))
        about = f"{len(wrong)} of {len(now)} images, {now['image'][k]}: {then} stored, {today} now"
        return Check(cell, "differs", about, new)
    since = "" if rows["code_sha256"].iloc[0] == cell.code_sha256 else ", stored by older code"
    if equal == len(now):
        return Check(cell, "bit-equal", f"{equal} images{since}", new)
    gap = f"others to {apart['psnr'].max():.0e} dB"
    return Check(cell, "agrees", f"{equal} of {len(now)} images bit-equal, {gap}{since}", new)


def summary(checks: Sequence[Check]) -> str:
    """``36 bit-equal, 2 not at hand``."""
    counts = Counter(check.verdict for check in checks)
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items())


def keep_checked(checks: Iterable[Check]) -> None:
    """Store anew what agrees, as of today's code, versions and machine; what differs stays as it is."""
    if good := [check.rows for check in checks if check.verdict in ("bit-equal", "agrees")]:
        store(pd.concat(good))
