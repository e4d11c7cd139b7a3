from . import plans, results, study, task
from .plans import Cost, cost, estimate
from .results import PILOT, StudyResult, load_study, merged
from .study import Job, Run, Study, StudyError, duration, run_all
from .task import scored, set_up, train_and_score, training_patches, validation

__all__ = [
    "PILOT",
    "Cost",
    "Job",
    "Run",
    "Study",
    "StudyError",
    "StudyResult",
    "cost",
    "duration",
    "estimate",
    "load_study",
    "merged",
    "plans",
    "results",
    "run_all",
    "scored",
    "set_up",
    "study",
    "task",
    "train_and_score",
    "training_patches",
    "validation",
]
