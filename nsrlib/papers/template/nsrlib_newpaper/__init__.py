"""newpaper: the record by which nsrlib knows it."""

from pathlib import Path

from nsrlib.papers import Paper, Training
from nsrlib.training import Recipe
from nsrlib_newpaper.studies import studies

PAPER = Paper(
    "newpaper",
    root=Path(__file__).parent,
    title="Authors, *Title*, place and year",
    needs="nothing",
    studies=studies,
    trainings={"newpaper": Training(Recipe(iterations=100_000, batch=16, patch=48, lr=1e-3))},
)
