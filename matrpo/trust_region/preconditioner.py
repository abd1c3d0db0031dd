"""K-FAC preconditioner for conjugate gradient: an approximate inverse Fisher matrix, which saves most products.

The block of a layer is approximated by the Kronecker product A (x) G of the second moments of its inputs and of the
cotangents at its outputs (Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
curvature", section 3), whose damped inverse is cheap in the factors' eigenvectors. It changes how fast a solver gets to
the natural gradient H^{-1} V, not what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KroneckerPreconditioner:
    """Kronecker-factored preconditioner: applies (A (x) G + damping I)^{-1}, layer by layer.

    Args:
        factors: (A, G) of each layer, (inputs + 1, inputs + 1) and (outputs, outputs).
        damping: multiple of the identity added to the Fisher matrix.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]], damping: float) -> None:
        self._layers = []
        for a, g in factors:
            (a_values, a_vectors), (g_values, g_vectors) = torch.linalg.eigh(a), torch.linalg.eigh(g)
            products = g_values.clamp_min(0.0).unsqueeze(1) * a_values.clamp_min(0.0)
            floor = max(damping, float(products.max()) * torch.finfo(a.dtype).eps)
            self._layers.append((a_vectors, g_vectors, 1.0 / (products + floor)))

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector of parameters, (D,); parameters beyond the layers' are left as they are."""
        pieces, start = [], 0
        for a_vectors, g_vectors, inverse in self._layers:
            outputs, inputs = inverse.shape[0], inverse.shape[1] - 1
            weight = vector[start : start + outputs * inputs].view(outputs, inputs)
            bias = vector[start + outputs * inputs : start + outputs * (inputs + 1)].unsqueeze(1)
            block = g_vectors.T @ torch.cat([weight, bias], dim=1) @ a_vectors
            block = g_vectors @ (block * inverse) @ a_vectors.T
            pieces += [block[:, :inputs].reshape(-1), block[:, inputs]]
            start += outputs * (inputs + 1)
        return torch.cat([*pieces, vector[start:]])
