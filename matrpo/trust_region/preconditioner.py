"""K-FAC preconditioner for conjugate gradient: an approximate inverse Fisher matrix, which saves most products.

The block of a layer is approximated by the Kronecker product A (x) G of the second moments of its inputs and of the
cotangents at its outputs (Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
curvature", section 3), whose damped inverse is cheap in the factors' eigenvectors. It changes how fast a solver gets to
the natural gradient H^{-1} V, not what it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST, _MOST = 1e-24, 1e24
"""Bounds of an inverse eigenvalue: products with vectors neither vanish nor overflow in float32."""


class KroneckerPreconditioner:
    """Kronecker-factored preconditioner: applies (A (x) G + damping I)^{-1}, layer by layer.

    Args:
        factors: (A, G) of each layer, (inputs + 1, inputs + 1), or its diagonal, (inputs + 1,), and (outputs, outputs).
        damping: multiple of the identity added to the Fisher matrix.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]], damping: float) -> None:
        self._factors = [((_eigen(a) if a.ndim == 2 else (a.nan_to_num(), None)), _eigen(g)) for a, g in factors]
        self._dtype = factors[0][0].dtype
        self._damping = damping
        self._inverses = self._damped_inverses()

    def with_damping(self, damping: float) -> KroneckerPreconditioner:
        """The preconditioner of the same factors and another damping, without their decomposition."""
        if damping == self._damping:
            return self
        other = copy.copy(self)
        other._damping = damping
        other._inverses = other._damped_inverses()
        return other

    def _damped_inverses(self) -> list[Tensor]:
        return [_damped_inverse(a, g, self._damping, self._dtype) for (a, _), (g, _) in self._factors]

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector of parameters, (D,); parameters beyond the layers' are left as they are."""
        pieces, start = [], 0
        for ((_, a_vectors), (_, g_vectors)), inverse in zip(self._factors, self._inverses, strict=True):
            outputs, inputs = inverse.shape[0], inverse.shape[1] - 1
            weight = vector[start : start + outputs * inputs].view(outputs, inputs)
            bias = vector[start + outputs * inputs : start + outputs * (inputs + 1)].unsqueeze(1)
            block = g_vectors.T @ torch.cat([weight, bias], dim=1)
            if a_vectors is None:
                block = g_vectors @ (block * inverse)
            else:
                block = g_vectors @ (block @ a_vectors * inverse) @ a_vectors.T
            pieces += [block[:, :inputs].reshape(-1), block[:, inputs]]
            start += outputs * (inputs + 1)
        return torch.cat([*pieces, vector[start:]])


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix; of its diagonal alone, where LAPACK finds none.

    Float32 drivers give up on positive semi-definite matrices with many equal eigenvalues, or return NaN without an
    error, where float64 succeeds.

    Returns:
        Eigenvalues (n,), of float64 where float32 did not do, and eigenvectors (n, n) of the matrix's type.
    """
    for dtype in dict.fromkeys((matrix.dtype, torch.float64)):
        try:
            values, vectors = torch.linalg.eigh(matrix.to(dtype))
        except RuntimeError:
            continue
        if values.isfinite().all() and vectors.isfinite().all():
            return values, vectors.to(matrix.dtype)
    return matrix.diagonal().nan_to_num(), torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _damped_inverse(a_values: Tensor, g_values: Tensor, damping: float, dtype: torch.dtype) -> Tensor:
    """Eigenvalues of (A (x) G + damping I)^{-1}, positive and finite: (outputs, inputs + 1)."""
    products = g_values.clamp_min(0.0).unsqueeze(1) * a_values.clamp_min(0.0)
    floor = max(damping, float(products.max()) * torch.finfo(dtype).eps)
    inverse = 1.0 / (products + floor)
    if products.dtype != torch.float64 and not (inverse.min() >= _LEAST and inverse.max() <= _MOST):
        return _damped_inverse(a_values.double(), g_values.double(), damping, dtype)
    return inverse.clamp(_LEAST, _MOST).to(dtype)
