from . import audit, cases, clock, kernels, networks, operators
from .cases import OPERATORS, cases_of, errors
from .clock import CpuClock, CudaClock, limits, measure
from .kernels import BARS, RESULTS, table, time_kernels, verdicts
from .networks import latency
from .operators import OURS, Case, Way

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
    "cases",
    "cases_of",
    "clock",
    "errors",
    "kernels",
    "latency",
    "limits",
    "measure",
    "networks",
    "operators",
    "table",
    "time_kernels",
    "verdicts",
]
