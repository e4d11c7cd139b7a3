"""What is trained: two widths."""

from nsrlib.papers.common import study
from nsrlib.studies import Study


def studies(profile: str = "cpu") -> dict[str, Study]:
    """Study -> its variants and seeds, at a profile: quick (seconds), cpu, gpu or paper."""
    recipes = {
        "quick": {"iterations": 10, "batch": 4, "patch": 12, "lr": 1e-3},
        "cpu": {"iterations": 1000, "batch": 16, "patch": 24, "lr": 1e-3},
        "gpu": {"iterations": 20_000, "batch": 16, "patch": 48, "lr": 1e-3},
        "paper": {"iterations": 100_000, "batch": 16, "patch": 48, "lr": 1e-3},
    }
    widths = {"wide": {"config": {"num_feats": 16}}, "narrow": {"config": {"num_feats": 4}}}
    common = {"model": "newpaper", "scale": 2}
    return {"width": study("newpaper width", profile, "x2", recipes[profile], widths, common)}
