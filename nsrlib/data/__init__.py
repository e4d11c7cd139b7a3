"""Data sets: what there is, where it is found, how it is downloaded, and the patches that training draws."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
