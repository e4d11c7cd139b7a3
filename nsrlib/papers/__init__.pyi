from . import addersr, bsrn, check, common, drcn, drn, new, nsr
from .check import Check
from .jobs import Job, train
from .record import Paper, Training
from .session import Session, open
from .table import every, get, networks_of, training_of

__all__ = [
    "Check",
    "Job",
    "Paper",
    "Session",
    "Training",
    "addersr",
    "bsrn",
    "check",
    "common",
    "drcn",
    "drn",
    "every",
    "get",
    "networks_of",
    "new",
    "nsr",
    "open",
    "train",
    "training_of",
]
