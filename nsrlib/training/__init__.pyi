from .folder import RunFolder, save_weights
from .hooks import Hooks, Losses
from .loop import TrainingResult, fit
from .recipe import Recipe, learning_rate
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
