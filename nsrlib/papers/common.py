"""What the studies of all papers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsrlib.studies import Study
from nsrlib.studies.study import Task

DATA: dict[str, dict[str, Sequence[str]]] = {
    "quick": {"train": ["embedded_train"], "test": ["embedded"]},
    "cpu": {"train": ["t91", "bsds400"], "test": ["set5", "set14"]},
    "gpu": {"train": ["t91", "bsds400"], "test": ["set5", "set14"]},
    "paper": {"train": ["div2k"], "test": ["set5", "set14", "b100", "urban100"]},
}

Variants = Mapping[str, Mapping[str, Any]]


def study(
    name: str,
    profile: str,
    trained: str,
    recipe: Mapping[str, Any],
    variants: Variants,
    common: Mapping[str, Any],
    data: Mapping[str, Sequence[str]] | None = None,
    task: Task | str = Study.task,
    seeds: int = 5,
    budgets: Mapping[float, int] | None = None,
) -> Study:
    """A study whose note tells the scale of its training: ``trained`` says what, the rest follows from the settings.

    Args:
        seeds: how many; at profile ``quick`` one. budgets: share of the steps -> seeds, not at ``quick``.
    """
    quick = profile == "quick"
    recipe = {"channels_last": profile != "paper", **recipe}
    data = data or DATA[profile]
    steps = f"{recipe['iterations']:,} steps of {recipe['batch']} patches of {recipe['patch']}x{recipe['patch']}"
    return Study(
        name,
        variants,
        {**common, **data, "recipe": recipe},
        seeds=range(1 if quick else seeds),
        budgets={} if quick else {share: range(number) for share, number in (budgets or {}).items()},
        task=task,
        note=f"{trained}, {steps} from {' and '.join(data['train'])}",
    )
