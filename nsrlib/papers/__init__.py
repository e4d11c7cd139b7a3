"""The papers: a :class:`Paper` record each, the table of them, and what a notebook opens.

What belongs to one paper lies in its folder here; what lies outside knows no paper by name. A package of somebody else
adds a paper through the entry point ``nsrlib.papers``, see :func:`every` and ``nsr new-paper``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
