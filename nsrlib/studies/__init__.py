"""Studies: variants times seeds, trained alike, one row for every run and test image.

A :class:`Study` says what is trained, :meth:`Study.run` trains what is missing, a :class:`StudyResult` holds the rows
and is kept as a CSV file that one line of pandas reads. What follows from them is in :mod:`nsrlib.statistics`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
