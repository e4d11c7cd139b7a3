from . import download, patches, sets
from .download import (
    DataUnavailable,
    DownloadPolicy,
    Source,
    cache_dir,
    fetch,
    sources,
    weights_path,
)
from .patches import Batch, Patches
from .sets import (
    LR_CONVENTIONS,
    ImageSet,
    Pair,
    benchmark_or_embedded,
    fetch_set,
    list_sets,
    load,
    training_set,
    verify,
)

__all__ = [
    "LR_CONVENTIONS",
    "Batch",
    "DataUnavailable",
    "DownloadPolicy",
    "ImageSet",
    "Pair",
    "Patches",
    "Source",
    "benchmark_or_embedded",
    "cache_dir",
    "download",
    "fetch",
    "fetch_set",
    "list_sets",
    "load",
    "patches",
    "sets",
    "sources",
    "training_set",
    "verify",
    "weights_path",
]
