from . import (
    bench,
    claims,
    complexity,
    data,
    evaluation,
    files,
    images,
    layers,
    metrics,
    models,
    ops,
    papers,
    plots,
    runs,
    studies,
    training,
)
from .evaluation import evaluate, upscale
from .images import imresize
from .metrics import psnr, ssim
from .models import create_model, list_models, load_weights

__all__ = [
    "bench",
    "claims",
    "complexity",
    "create_model",
    "data",
    "evaluate",
    "evaluation",
    "files",
    "images",
    "imresize",
    "layers",
    "list_models",
    "load_weights",
    "metrics",
    "models",
    "ops",
    "papers",
    "plots",
    "psnr",
    "runs",
    "ssim",
    "studies",
    "training",
    "upscale",
]
