"""How fast operators and networks are on this device, and what their machine code says."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
