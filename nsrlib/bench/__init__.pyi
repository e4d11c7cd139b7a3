from . import audit, clock, kernels, networks, operators, session
from .clock import CpuClock, CudaClock, limits, measure
from .kernels import BARS, RESULTS, errors, table, time_kernels, verdicts
from .networks import latency
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
    "kernels",
    "latency",
    "limits",
    "measure",
    "networks",
    "operators",
    "session",
    "table",
    "time_kernels",
    "verdicts",
]
