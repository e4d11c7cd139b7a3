from .folder import RunFolder
from .hooks import Hooks, Losses
from .loop import TrainingResult, fit
from .recipe import Recipe, learning_rate
from .weights import save_weights, seeded

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
