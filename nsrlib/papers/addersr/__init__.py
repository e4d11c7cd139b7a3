"""AdderSR: super-resolution by additions, its two theorems and its energy."""

from nsrlib.papers.addersr import studies
from nsrlib.papers.parameters import COMMON, whole
from nsrlib.papers.record import Paper, Training, drawn_in
from nsrlib.training.recipe import Recipe

RATE = (("*adder*", 30.0),)

PAPER = Paper(
    "addersr",
    title="Song et al., *AdderSR: Towards Energy Efficient Image Super-Resolution*, CVPR 2021",
    needs="nothing; Set5 for the trained networks",
    studies=studies.studies,
    trainings={
        # its own recipe was not found; patch, batch and loss are those of EDSR and VDSR, the rest is a starting point
        "addersr_edsr": Training(Recipe(iterations=300_000, batch=16, patch=48, lr=2e-4, lr_scale=RATE)),
        "addersr_vdsr": Training(Recipe(iterations=300_000, batch=16, patch=41, lr=1e-3, lr_scale=RATE)),
    },
    parameters={**COMMON, "steps": whole(1)},
    diagrams=drawn_in("nsrlib.papers.addersr.figures", "unit"),
)
