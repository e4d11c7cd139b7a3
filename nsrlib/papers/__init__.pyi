from . import addersr, bsrn, check, common, drcn, drn, new, nsr
from .check import Check
from .record import Paper, Training
from .session import Session, open
from .table import every, get, training_of
from .train import train

__all__ = [
    "Check",
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
    "new",
    "nsr",
    "open",
    "train",
    "training_of",
]
