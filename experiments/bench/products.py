"""Speed of the Jacobian and Fisher matrix-vector products, against that of the matrix products they consist of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from matrpo.experiments.bench.report import Row
from matrpo.trust_region.solvers import LinearModel


@dataclass(frozen=True)
class Shape:
    """The shape of the network that is linearised.

    Attributes:
        sizes: (inputs, hidden..., outputs).
        recurrent_layers: GRU layers after the hidden ones.
        rows: samples linearised at a time.
        steps: how many of them follow one another in a segment, for GRU layers.
    """

    sizes: Sequence[int]
    recurrent_layers: int
    rows: int
    steps: int


def measure_products(model: LinearModel, shape: Shape, repeats: int) -> list[Row]:
    """Median CPU time of each product, beside that of its bare matrix products measured in turn with it.

    Args:
        model: the linearised policy.
        shape: of its network.
        repeats: measurements of each.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(model.parameters.shape, generator=generator)
    weights = torch.randn(model.num_agents, model.num_samples, generator=generator)
    products = _MatrixProducts(shape, generator)
    forward, backward = products.forward, products.backward
    rounds = model.num_samples / shape.rows
    flops = rounds * products.flops
    actions: list[Callable[[], object]] = [
        lambda: model.jvp(direction),
        lambda: model.vjp(weights),
        lambda: model.fisher(direction),
        forward,
        backward,
    ]
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, series in zip(actions, seconds, strict=True):
            series.append(_cpu_seconds(action))
    jvp, vjp, fisher, forward_limit, backward_limit = map(statistics.median, seconds)
    limits = {"jvp": forward_limit * rounds, "vjp": backward_limit * rounds}
    limits["fisher"] = limits["jvp"] + limits["vjp"]
    work = {"jvp": flops, "vjp": flops, "fisher": 2 * flops}
    return [
        {
            "agents": model.num_agents,
            "product": name,
            "cpu_ms": 1e3 * taken,
            "gflops": 1e-9 * work[name] / taken,
            "matrix_product_ms": 1e3 * limits[name],
            "matrix_product_gflops": 1e-9 * work[name] / limits[name],
            "share_of_limit": limits[name] / taken,
        }
        for name, taken in {"jvp": jvp, "vjp": vjp, "fisher": fisher}.items()
    ]


class _MatrixProducts:
    """The bare matrix products of one chunk's Jacobian-vector product (JVP), and of its transpose (VJP), preallocated.

    Attributes:
        flops: of either.
    """

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self._generator = generator
        self._forward: list[tuple[Tensor, Tensor, Tensor]] = []
        self._backward: list[tuple[Tensor, Tensor, Tensor]] = []
        self.flops = 0
        *encoder, outputs = shape.sizes
        width = encoder[-1]
        for layer, (inputs, hidden) in enumerate(pairwise(encoder)):
            self._add_linear(shape.rows, inputs, hidden, below=layer > 0)
        for _ in range(shape.recurrent_layers):
            self._add_linear(shape.rows, width, 3 * width)
            self._add_linear(shape.rows, width, 3 * width, below=False)
            for _ in range(shape.steps - 1):
                self._add_linear(shape.rows // shape.steps, width, 3 * width, parameters=False)
        self._add_linear(shape.rows, width, outputs, below=len(encoder) > 1)

    def forward(self) -> None:
        """Run the matrix products of the JVP."""
        _multiply(self._forward)

    def backward(self) -> None:
        """Run the matrix products of the VJP."""
        _multiply(self._backward)

    def _add_linear(self, rows: int, inputs: int, outputs: int, parameters: bool = True, below: bool = True) -> None:
        """Add a linear layer's matrix products: for the tangent of its parameters, and for that of its inputs."""
        x, g = self._draw(rows, inputs), self._draw(rows, outputs)
        weight = self._draw(outputs, inputs)
        self._forward += [(x, weight.T, torch.empty_like(g))] * (parameters + below)
        if parameters:
            self._backward.append((g.T, x, torch.empty_like(weight)))
        if below:
            self._backward.append((g, weight, torch.empty_like(x)))
        self.flops += (parameters + below) * 2 * rows * inputs * outputs

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


def _multiply(triples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    for left, right, result in triples:
        torch.mm(left, right, out=result)


def _cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin
