"""The ledger of claims: what a paper printed, what we measured, and a verdict that code computed.

``data/published/<paper>.csv`` holds the papers' numbers, one a row, with the source of each. A notebook opens a
:class:`Ledger`, compares and saves; ``data/results/<paper>/<profile>.json`` keeps the stored runs that
:func:`scoreboard` reads. A number is reproduced when

- ``exact``, it follows without training (counts, arithmetic), and equals every printed digit;
- ``weights``, published weights on the real benchmark give the PSNR within 0.01 dB, the SSIM within 0.0005.

An ordering that was ``trained`` here, smaller or shorter than in the paper, gets its verdict from a study. What was not
measured is ``open``, with the reason, or ``quoted``, if the paper itself has it from other papers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
