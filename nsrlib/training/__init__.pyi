from .folder import RunFolder, save_weights
from .loop import TrainingResult, fit
from .recipe import Hooks, Losses, Recipe, learning_rate
from .state import seeded

__all__ = [
    "Hooks",
    "Losses",
    "Recipe",
    "RunFolder",
    "TrainingResult",
    "fit",
    "learning_rate",
    "save_weights",
    "seeded",
]
