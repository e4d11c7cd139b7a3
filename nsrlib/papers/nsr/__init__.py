"""NSR: neural sparse representation, by kernels that a gate mixes, for super-resolution and restoration."""

from nsrlib.papers.nsr import studies
from nsrlib.papers.record import Paper, Training, drawn_in
from nsrlib.training.recipe import Recipe

PAPER = Paper(
    "nsr",
    title="Fan et al., *Neural Sparse Representation for Image Restoration*, NeurIPS 2020",
    needs="Set5, Set14; DnCNN's weights (2 MB)",
    studies=studies.studies,
    trainings={
        # the code's setting: 30 epochs of 1000 crops from each of DIV2K's 800 images
        "nsr": Training(
            Recipe(iterations=1_500_000, batch=16, lr=1e-3, schedule="multistep", milestones=(2 / 3, 5 / 6), gamma=0.2)
        ),
        # 50 epochs of 128 x 1600 patches, recalled; the paper's SGD with its batch normalisation is Adam here
        "dncnn": Training(Recipe(iterations=80_000, batch=128, patch=40, loss="l2", lr=1e-3, lr_min=1e-5)),
    },
    diagrams=drawn_in("nsrlib.papers.nsr.figures", "convolution"),
)
