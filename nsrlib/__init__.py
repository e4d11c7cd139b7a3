"""nsrlib: five image-restoration papers, checked cell by cell.

The networks, the operators, the MATLAB-exact protocol, the data and the ledger of claims behind ``notebooks/``.
Everything loads when it is first used: ``import nsrlib`` costs next to nothing.

Example:
    >>> import nsrlib
    >>> network = nsrlib.create_model("bsrn", scale=2, pretrained=True)
    >>> table = nsrlib.evaluate(network, "embedded", limit=1)  # a photograph of scikit-image
    >>> sorted(table.columns)[:2]
    ['image', 'psnr']

### Where to begin

* **Upscale a picture**: `nsrlib.create_model`, then `nsrlib.upscale` or `nsr upscale in.png out.png`.
* **Measure a network**: `nsrlib.evaluate`; `nsrlib.metrics.Protocol` states every choice behind a PSNR,
  `nsrlib.imresize` is MATLAB's, `nsrlib.data.load` finds the benchmarks.
* **Reproduce a paper**: `nsr reproduce bsrn` runs its notebook; `nsrlib.papers.open` is what the notebook opens first,
  `nsrlib.claims` keeps published and own numbers side by side.
* **Train**: `nsrlib.training.fit` with a `nsrlib.training.Recipe`; `nsrlib.studies` compares trainings, with intervals.
* **Look inside**: a file a network in `nsrlib.models`, a folder an operator in `nsrlib.ops`, figures in `nsrlib.plots`.
* **Add a paper**: `nsr new-paper NAME` lays out a package; `nsrlib.papers.Paper` says what the library knows of one.
* **Read what strangers made**: `nsrlib.security` says what is trusted, what is not, and which limits hold.

### The papers' equations, and what computes them

| paper | equation | computed by |
|---|---|---|
| AdderSR, Eq. 2 | `Y[o] = −Σ │X[c, i, j] − W[o, c, i, j]│`, sum over c, i, j | `nsrlib.ops.adder2d` |
| NSR, Eq. 6 | `y = W₂ⁱ F(W₁ⁱ x)`, `i = argmax MLP(x)` | `nsrlib.ops.mixed_conv2d`, mode `hard` |
| NSR, Eq. 9 | `y ≈ Ŵ₂ F(Ŵ₁ x)`, `Ŵ = Σᵢ γᵢ Wⁱ`, `γ = softmax MLP(x)` | `nsrlib.ops.mixed_conv2d`, d = 1 |
| NSR, Eq. 10 | `Ŵʲ = Σᵢ γⱼᵢ Wʲⁱ` for each of d groups of filters | `nsrlib.ops.mixed_conv2d` |
| BSRN, BSConv | `y[o] = D[o] ∗ Σᵢ P[o, i] x[i] + b[o]` | `nsrlib.ops.bsconv2d` |
| DRCN, recursion | `H[d] = relu(W ∗ H[d−1] + b)`, d = 1 … D; `y = Σ w[d] y[d]` | `nsrlib.models.drcn.DRCN` |
| DRN, dual loss | `L = Σₖ │pᵏ − xᵏ│ + λ Σₖ │Dₖ(pᵏ) − xᵏ⁻¹│` | `nsrlib.models.drn.dual_regression_loss` |
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
