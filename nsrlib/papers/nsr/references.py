"""What NSR's denoisers are measured against (Tables 5 and 6), on whole test sets: nothing is trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsrlib.studies import Study

Test = tuple[str, Mapping[str, Any]]
SIGMAS, QUALITIES = (15, 25, 50), (10, 20, 30, 40)


def references(profile: str = "cpu") -> Study:
    """Degraded inputs, non-local means and DnCNN with its released weights. The seeds are those of the noise."""
    noisy = ("set12", "bsd68") if profile != "quick" else ("embedded_gray_train",)
    compressed = ("classic5", "live1") if profile != "quick" else ("embedded_gray_train",)
    noise: list[Test] = [(name, {"noise": sigma}) for name in noisy for sigma in SIGMAS]
    jpeg: list[Test] = [(name, {"jpeg": quality}) for name in compressed for quality in QUALITIES]
    tests = {
        "input": noise + jpeg,
        "non-local means": noise[: len(SIGMAS)],  # slow, and far behind: one set will do
        "DnCNN": [test for test in noise if test[1]["noise"] == 25],
    }
    return Study(
        "nsr references",
        {method: {"method": method, "tests": chosen} for method, chosen in tests.items()},
        {"limit": 1} if profile == "quick" else {},
        seeds=range(1 if profile == "quick" else 5),
        task="nsrlib.papers.nsr.references:measure",
        note="nothing trained here; a seed is a draw of the noise",
    )


def measure(
    *, method: str, tests: Sequence[Test], seed: int, out: str = "", limit: int | None = None
) -> dict[str, Any]:
    """Score a method of :data:`nsrlib.papers.nsr.restoration.METHODS`: the task of the study of references.

    Returns:
        ``psnr <set> <task>``, ``ssim ...``, ``seconds ...`` an image and the number of ``images``, for the sets that
        are at hand; nothing without DnCNN's weights.
    """
    from nsrlib.data import DataUnavailable
    from nsrlib.evaluation import evaluate
    from nsrlib.images import Degradation
    from nsrlib.papers.nsr.restoration import reference

    found: dict[str, Any] = {}
    for name, degradation in tests:
        try:
            model = reference(method, Degradation(**degradation))
            table = evaluate(model, name, noise_seed=seed, limit=limit, progress=False, **degradation)
        except DataUnavailable:
            continue
        ((kind, level),) = degradation.items()
        values = {**table[["psnr", "ssim", "seconds"]].mean().to_dict(), "images": len(table)}
        found |= {f"{metric} {name} {kind} {level:g}": value for metric, value in values.items()}
    return found
