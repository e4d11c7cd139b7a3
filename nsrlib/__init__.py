"""nsrlib: five image-restoration papers, checked cell by cell.

The networks, the operators, the MATLAB-exact protocol, the data and the ledger of claims behind ``notebooks/``.
Everything loads when it is first used: ``import nsrlib`` costs next to nothing.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
