"""DRN: dual regression, and the compression that it guides."""

from nsrlib.papers.drn import studies
from nsrlib.papers.record import Paper, Training, drawn_in
from nsrlib.training.recipe import Recipe

# stepped once in 1000 iterations by the authors, at every step here; x8 takes patches of 48
TRAINING = Training(
    Recipe(iterations=1_000_000, batch=32, patch=96, lr=1e-4, lr_min=1e-7),
    setup="nsrlib.models.drn:training_setup",
)

PAPER = Paper(
    "drn",
    title="Guo et al., *Towards Lightweight Super-Resolution with Dual Regression Learning*, TPAMI 2024",
    needs="Set5, Set14",
    studies=studies.studies,
    trainings={"drn_s": TRAINING, "drn_l": TRAINING},
    diagrams=drawn_in("nsrlib.papers.drn.figures", "network"),
)
