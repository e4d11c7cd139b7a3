from . import catalogue, download, patches, sets, used
from .catalogue import LR_CONVENTIONS, SETS, UNVERIFIED, SetInfo, fetch_set, list_sets, verify
from .download import DataUnavailable, DownloadPolicy, Source, cache_dir, sources, weights_path
from .patches import Batch, Patches
from .sets import ImageSet, Pair, benchmark_or_embedded, load, training_set

__all__ = [
    "LR_CONVENTIONS",
    "SETS",
    "UNVERIFIED",
    "Batch",
    "DataUnavailable",
    "DownloadPolicy",
    "ImageSet",
    "Pair",
    "Patches",
    "SetInfo",
    "Source",
    "benchmark_or_embedded",
    "cache_dir",
    "catalogue",
    "download",
    "fetch_set",
    "list_sets",
    "load",
    "patches",
    "sets",
    "sources",
    "training_set",
    "used",
    "verify",
    "weights_path",
]
