"""The trained studies of the five papers, at every profile: what is varied, how long it is trained, on what.

A notebook takes its studies from here and shows the stored results of the longest profile; ``nsr study PAPER`` runs
them outside of a notebook. Profiles change widths, iterations, seeds, data and how finely a rate is swept, not what is
compared.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nsrlib.claims import PROFILES, RESULTS_DIR
from nsrlib.experiments import addersr, bsrn, drcn, drn, nsr
from nsrlib.studies import Study, StudyResult, load_study, set_up

if TYPE_CHECKING:
    from nsrlib.training import TrainingResult

STUDIES: dict[str, Callable[[str], dict[str, Study]]] = {
    "addersr": addersr.studies,
    "bsrn": bsrn.studies,
    "drcn": drcn.studies,
    "drn": drn.studies,
    "nsr": nsr.studies,
}
"""Paper -> its studies for a profile."""


class Training(NamedTuple):
    """What a paper's training has beside a recipe.

    Attributes:
        setup: losses and further networks, see :func:`~nsrlib.studies.set_up`.
        patches: keywords of :class:`~nsrlib.patches.Patches`.
        shorter: fields of the recipe that differ when it is shorter than the paper's.
    """

    setup: str = ""
    patches: Mapping[str, Any] = {}
    shorter: Mapping[str, Any] = {}


TRAININGS = {
    "drcn": Training("nsrlib.models.drcn:training_setup", drcn.PATCHES, drcn.SHORT),
    "drn_s": Training("nsrlib.models.drn:training_setup"),
    "drn_l": Training("nsrlib.models.drn:training_setup"),
}
"""Network -> how it is trained, where that is more than an L1 loss on RGB."""


def studies(paper: str, profile: str = "cpu") -> dict[str, Study]:
    """All studies of a paper. ValueError for a paper or profile that has none; lists those there are."""
    if paper not in STUDIES:
        raise ValueError(f"no studies for {paper!r}; there are: {', '.join(STUDIES)}")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return STUDIES[paper](profile)


def stored_path(paper: str, study: str, profile: str) -> Path:
    """Where the results of a study are kept in the repository."""
    return RESULTS_DIR / paper / "studies" / f"{study.replace(' ', '-')}.{profile}.json"


def stored(paper: str, study: str) -> tuple[StudyResult, str] | None:
    """The stored results of the longest profile and its name, or None."""
    for profile in reversed(PROFILES):
        path = stored_path(paper, study, profile)
        if path.is_file():
            return load_study(path), profile
    return None


def results(
    paper: str, profile: str = "quick", out_dir: str | os.PathLike = "", *, only: Sequence[str] = (), jobs: int = 1
) -> dict[str, StudyResult]:
    """What a notebook shows: the stored studies at profile ``quick``, else the profile's own, trained now.

    Args:
        out_dir: where training keeps its runs, so that a repeated call goes on; empty: a temporary folder.
        only: names of studies; default: all.
        jobs: runs at once.

    Returns:
        Study -> results; at ``quick``, studies without stored results are absent.
    """
    table = {name: s for name, s in studies(paper, profile).items() if not only or name in only}
    if profile == "quick":
        kept = {name: stored(paper, name) for name in table}
        return {name: found[0] for name, found in kept.items() if found}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out_dir or scratch) / "studies" / paper
        return {name: s.run(folder / name.replace(" ", "-"), jobs=jobs) for name, s in table.items()}


def miniature(paper: str, study: str) -> StudyResult:
    """The quick profile of a study, trained here and now: seconds, and no evidence of anything but that it runs."""
    with tempfile.TemporaryDirectory() as scratch:
        return studies(paper, "quick")[study].run(scratch, progress=False)


def _middle(level: Any) -> Any:
    """Of a range of noise or of qualities; a single level is its own."""
    low, high = level if isinstance(level, Sequence) else (level, level)
    return (low + high) // 2 if isinstance(low, int) and isinstance(high, int) else (low + high) / 2


def train(
    model: str,
    scale: int,
    data: Sequence[str] | None = None,
    *,
    noise: float | tuple[float, float] | None = None,
    jpeg: int | tuple[int, int] | None = None,
    profile: str = "cpu",
    config: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    validate: str | None = "embedded_val",
    out: str | os.PathLike,
    skip_broken: bool = False,
    resume: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> tuple[TrainingResult, str]:
    """Train a network on a user's images, with a log, curves and a weights file in ``out``: ``nsr train``.

    Args:
        model, scale, config: for :func:`nsrlib.create_model`.
        data: training sets or folders; None: T91, or the embedded photographs where it cannot be had.
        noise, jpeg: what a network of scale 1 learns to undo, see :class:`~nsrlib.patches.Patches`; on gray unless it
            takes colour. Validation has the middle of a range.
        profile: ``quick`` 200 steps, ``cpu`` 10,000, ``gpu`` 200,000 in bfloat16, ``paper`` the published recipe.
        recipe: fields that differ from the profile's.
        validate: a set or folder whose PSNR on luma is followed; None: none.
        out: the run's folder. resume: go on where a run in it was interrupted.
        skip_broken: leave out images that cannot be read or are smaller than a patch; the count is said.

    Returns:
        The result, and a sentence about it (empty in all processes but the first of a distributed run).
    """
    from nsrlib import data as sets
    from nsrlib import evaluation
    from nsrlib.models import create_model
    from nsrlib.patches import Patches
    from nsrlib.training import PAPER_RECIPES, Recipe, fit, seeded

    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    sizes: dict[str, dict[str, Any]] = {
        "quick": {"iterations": 200, "batch": 8, "patch": 24},
        "cpu": {"iterations": 10_000, "batch": 16, "patch": 32, "channels_last": True},
        "gpu": {"iterations": 200_000, "batch": 32, "patch": 48, "channels_last": True, "precision": "bfloat16"},
        "paper": {},
    }
    base = PAPER_RECIPES.get(model) or next(
        (r for name, r in PAPER_RECIPES.items() if model.startswith(name)), Recipe()
    )
    own = TRAININGS.get(model, Training())
    shorter = {} if profile == "paper" else own.shorter
    full = base.replace(**sizes[profile], **shorter).replace(**dict(recipe or {}))
    with seeded(full.seed):
        network = create_model(model, scale, **dict(config or {}))
    keywords, _ = set_up(own.setup, network, full)
    task = {name: _middle(level) for name, level in (("noise", noise), ("jpeg", jpeg)) if level is not None}
    if scale == 1 and not task:
        raise ValueError("scale 1 leaves nothing to learn: give noise or jpeg to undo")
    gray = evaluation.takes_gray(network) if task else None
    try:
        images = sets.training_set(data or ["t91"], scale, gray=gray, on_error="skip" if skip_broken else "raise")
    except sets.DataUnavailable:
        if data:
            raise
        images = sets.training_set("embedded_train", scale, gray=gray)
    small: Literal["skip", "raise"] = "skip" if skip_broken else "raise"
    patches = Patches(images, full.patch, noise=noise, jpeg=jpeg, too_small=small, **own.patches)
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        left_out = f", {len(patches.skipped)} left out" if patches.skipped else ""
        say(f"{model} x{scale}: {sum(p.numel() for p in network.parameters()):,} parameters; {patches}{left_out}")
        say(f"recipe: {full}")
    held_out = None if validate is None else sets.load(validate, scale, gray=gray)

    def check(net: Any) -> dict[str, float]:
        assert held_out is not None
        return {"psnr": float(evaluation.evaluate(net, held_out, fast=False, **task)["psnr"].mean())}

    about = {"model": model, "scale": scale, "config": json.dumps(dict(config or {}))}
    result = fit(
        network,
        patches,
        full,
        validate=check if held_out else None,
        validate_every=max(1, full.iterations // 20) if held_out else 0,
        out=out,
        resume=resume,
        device=device,
        description=f"{model} x{scale}",
        metadata=about,
        **keywords,
    )
    if not first:
        return result, ""
    from nsrlib import plots

    plots.save(plots.history(result.history, f"{model} x{scale}"), "curves", Path(out))
    last = result.history.iloc[-1]
    quality = f", {last['psnr']:.2f} dB on {validate}" if "psnr" in last and last["psnr"] == last["psnr"] else ""
    return result, f"{result.steps:,} steps in {result.seconds:.0f} s, loss {last['loss']:.4g}{quality}; see {out}"
