from .loop import Losses, TrainingResult, fit, save_weights, seeded
from .recipe import Recipe, learning_rate

__all__ = ["Losses", "Recipe", "TrainingResult", "fit", "learning_rate", "save_weights", "seeded"]
