"""DRCN: the deeply recursive network, depth without parameters."""

from nsrlib.papers.drcn import studies
from nsrlib.papers.record import Paper, Training, drawn_in
from nsrlib.training.recipe import Recipe

PAPER = Paper(
    "drcn",
    title="Kim et al., *Deeply-Recursive Convolutional Network for Image Super-Resolution*, CVPR 2016",
    needs="Set5, Set14, weights (4 MB), the authors' pictures (2 MB)",
    studies=studies.studies,
    trainings={
        # momentum and patch recalled; the paper's losses are sums over a patch's pixels, see nsrlib.models.drcn, whose
        # gradients are far too long for this rate: the clipping is ours
        "drcn": Training(
            Recipe(
                iterations=1_000_000, batch=64, patch=41, loss="l2", optimiser="sgd", lr=0.01, momentum=0.9,
                weight_decay=1e-4, schedule="plateau", gamma=0.1, patience=5, lr_min=1e-6, clip_norm=5.0,
            ),
            setup="nsrlib.models.drcn:training_setup",
            patches=studies.PATCHES,
            shorter=studies.SHORT,
        )
    },
    diagrams=drawn_in("nsrlib.papers.drcn.figures", "network", "recursion_designs"),
)  # fmt: skip
