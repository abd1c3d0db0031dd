"""How close the Jacobian and Fisher products come to the speed of the matrix products they consist of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from matrpo.experiments.bench_report import Row
from matrpo.policy import CHUNK, LinearizedPolicy


def measure_products(model: LinearizedPolicy, sizes: Sequence[int], repeats: int) -> list[Row]:
    """Median CPU time of each product, beside that of its bare matrix products measured in turn with it.

    Args:
        model: the linearised policy.
        sizes: its network's (inputs, hidden..., outputs).
        repeats: measurements of each.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(model.parameters.shape, generator=generator)
    weights = torch.randn(model.num_agents, model.num_samples, generator=generator)
    forward, backward = _matrix_products(sizes, min(CHUNK, model.num_samples), generator)
    rounds = model.num_samples / min(CHUNK, model.num_samples)
    flops = sum(
        2 * model.num_samples * a * b * (1 if layer == 0 else 2) for layer, (a, b) in enumerate(pairwise(sizes))
    )
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


def _matrix_products(
    sizes: Sequence[int], rows: int, generator: torch.Generator
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The matrix products of one chunk's JVP, and of its VJP, into memory that is there already."""
    forward: list[tuple[Tensor, Tensor, Tensor]] = []
    backward: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        x = torch.randn(rows, inputs, generator=generator)
        g = torch.randn(rows, outputs, generator=generator)
        weight = torch.randn(outputs, inputs, generator=generator)
        forward += [(x, weight.T, torch.empty_like(g))] * (1 if layer == 0 else 2)
        backward.append((g.T, x, torch.empty_like(weight)))
        if layer:
            backward.append((g, weight, torch.empty_like(x)))

    def multiply(triples: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        for left, right, result in triples:
            torch.mm(left, right, out=result)

    return lambda: multiply(forward), lambda: multiply(backward)


def _cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin
