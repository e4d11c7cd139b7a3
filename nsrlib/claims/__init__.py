"""The ledger of claims: what a paper printed, what we measured, and a verdict that code computed.

``data/published/<paper>.csv`` holds the papers' numbers, one a row, with the source of each. A notebook opens a
:class:`Ledger`, compares and saves; ``data/results/<paper>/<profile>.json`` keeps the stored runs that
:func:`scoreboard` reads. How a number was measured decides what it must reach, see :func:`judge`:

- ``exact``, it follows without any data (counts, arithmetic): every printed digit;
- ``data``, it follows from public data alone (bicubic upscaling, JPEG): every printed digit;
- ``weights``, published weights on the real benchmark: PSNR within 0.01 dB, others half a unit of the last digit.

What was not measured is ``open``, with a reason that code computes (:func:`lacking`), or ``quoted``, if the paper has
it from others. A number that several tables print is one fact (:func:`facts`), and :func:`count` counts facts.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
