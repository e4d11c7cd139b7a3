from . import audit, clock, everything, kernels, networks, operators
from .clock import CpuClock, CudaClock, limits, measure
from .kernels import BARS, RESULTS, errors, table, time_kernels, verdicts
from .networks import latency, store
from .operators import OPERATORS, OURS, Case, Way, cases_of

__all__ = [
    "BARS",
    "OPERATORS",
    "OURS",
    "RESULTS",
    "Case",
    "CpuClock",
    "CudaClock",
    "Way",
    "audit",
    "cases_of",
    "clock",
    "errors",
    "everything",
    "kernels",
    "latency",
    "limits",
    "measure",
    "networks",
    "operators",
    "store",
    "table",
    "time_kernels",
    "verdicts",
]
