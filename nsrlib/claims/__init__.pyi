from . import board, cells, ledger, numbers
from .board import scoreboard
from .cells import measured, verify
from .ledger import Ledger, VerdictError, show, store, stored_results
from .numbers import PROFILES, PROTOCOL, TOLERANCE, How, Numbers, as_printed, decimals, judge, known, published

__all__ = [
    "PROFILES",
    "PROTOCOL",
    "TOLERANCE",
    "How",
    "Ledger",
    "Numbers",
    "VerdictError",
    "as_printed",
    "board",
    "cells",
    "decimals",
    "judge",
    "known",
    "ledger",
    "measured",
    "numbers",
    "published",
    "scoreboard",
    "show",
    "store",
    "stored_results",
    "verify",
]
