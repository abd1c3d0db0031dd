"""Backpropagation through a network by its layers' own products, where autograd would build and walk a graph."""

from __future__ import annotations

from torch import Tensor

from matrpo.networks.gru import LinearizedNetwork, Network
from matrpo.networks.sequences import Sequences


def forward_pass(network: Network, inputs: Tensor, sequences: Sequences | None = None) -> LinearizedNetwork:
    """A network's outputs on M samples, and what the gradient of a loss goes back through.

    Its `gradients` of the loss's gradient with respect to the outputs are those with respect to the parameters.

    Args:
        network: its parameters may change once the gradients are there.
        inputs: (M, inputs).
        sequences: how the samples follow one another, for a recurrent network.
    """
    ((_, linearized),) = network.linearize(inputs, len(inputs), sequences)
    return linearized
