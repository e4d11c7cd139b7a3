"""The networks of BSRN's comparison table and of its Figure 1, each measured as its own paper measured it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from nsrlib import claims
from nsrlib.complexity import count
from nsrlib.metrics import MATLAB_Y, Protocol
from nsrlib.models import create_model

WAYS: dict[str, tuple[Callable[[int], Protocol], str]] = {
    "as BSRN": (MATLAB_Y, "paper"),
    "as IMDN": claims.cells.OWN_WAY["imdn"],
    "as VDSR": claims.cells.OWN_WAY["vdsr"],
}
"""Protocol by scale, and how LR images are made, see :func:`nsrlib.data.load`. IMDN's LR is rounded twice."""

NETWORKS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "BSRN": ("bsrn", (2, 3, 4), "as BSRN"),
    "BSRN-S": ("bsrn_s", (4,), "as BSRN"),
    "RFDN (433 K)": ("rfdn", (4,), "as BSRN"),
    "IMDN": ("imdn", (2, 3, 4), "as IMDN"),
    "IMDN (894 K)": ("imdn_ntire22", (4,), "as BSRN"),
    "VDSR": ("vdsr", (2, 3, 4), "as VDSR"),
    "SRCNN": ("srcnn", (2, 3, 4), "as VDSR"),
    "bicubic": ("bicubic", (2, 3, 4), "as VDSR"),
}
"""Label -> network, the scales at which it has weights, and how it is measured.

A label that a table prints is that table's network. RFDN (433 K) and IMDN (894 K) are those of challenges: other
networks than the rows of these names.
"""

ROUNDED_UP = {("IMDN", 3): (240, 427)}
"""(label, scale) -> input size of its printed multiply-adds, where a third of 1280 was not rounded down to 426."""


def sizes() -> pd.DataFrame:
    """What the networks cost at an output of 1280x720: row, scale, params (K), and macs and thop (G), as counted.

    Example:
        >>> print(*sizes().round(1).iloc[0])
        BSRN 2 331.6 71.9 73.0
    """
    rows = []
    for label, (name, scales, _) in NETWORKS.items():
        for scale in scales if name != "bicubic" else ():
            network = create_model(name, scale)
            counted = {rule: count(network, ROUNDED_UP.get((label, scale)), rule=rule) for rule in ("macs", "thop")}
            adds = {rule: one.multi_adds / 1e9 for rule, one in counted.items()}
            rows.append({"row": label, "scale": scale, "params": counted["macs"].params / 1e3} | adds)
    return pd.DataFrame(rows)


def measured(scales: Sequence[int], sets: Sequence[str], **options: Any) -> pd.DataFrame:
    """All of :data:`NETWORKS` with their published weights, as far as they are stored or at hand.

    Args:
        options: limit, recompute, device, download of :func:`nsrlib.claims.measured`.

    Returns:
        As that function, with a column ``way`` and a line for each of :data:`WAYS` in ``attrs["note"]``.

    Example:
        >>> table = measured([4], ["embedded"], download=False)
        >>> table.query("model == 'bicubic'")[["scale", "set", "way"]].values.tolist()
        [[4, 'embedded', 'as VDSR']]
    """
    found, notes = [], []
    for way, (protocol, lr) in WAYS.items():
        entries = [
            (label, name, scale)
            for label, (name, there, how) in NETWORKS.items()
            for scale in scales
            if how == way and scale in there
        ]
        table = claims.measured(entries, sets, protocol=protocol, lr=lr, **options)
        notes.append(f"{way}: {table.attrs['note']}")
        table.attrs = {}  # which pandas compares, and fails where they hold tables
        found.append(table.assign(way=way))
    table = pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)
    order = {label: place for place, label in enumerate(NETWORKS)}
    table = table.sort_values(["scale", "model"], key=lambda c: c.map(order) if c.name == "model" else c, kind="stable")
    table.attrs = {"note": "\n".join(notes)}
    return table.reset_index(drop=True)
