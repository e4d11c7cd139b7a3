from . import audit, kernels, networks
from .networks import latency

__all__ = ["audit", "kernels", "latency", "networks"]
