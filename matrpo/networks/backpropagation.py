"""Backpropagation through a network by its layers' own products, where autograd would build and walk a graph."""

from __future__ import annotations

from torch import Tensor

from matrpo.networks.distributions import by_column
from matrpo.networks.gru import LinearizedNetwork, Network
from matrpo.networks.sequences import Sequences


class ForwardPass:
    """A network's outputs on M samples, and the gradient of a loss of them with respect to its parameters.

    Autograd goes from the loss back to the outputs; `gradient` goes on from there.

    Args:
        network: its parameters may change afterwards.
        inputs: (M, inputs).
        sequences: how the samples follow one another, for a recurrent network.

    Attributes:
        outputs: (M, outputs), a leaf of autograd's graph, stored `distributions.by_column`.
    """

    def __init__(self, network: Network, inputs: Tensor, sequences: Sequences | None = None) -> None:
        ((_, linearized),) = network.linearize(inputs, len(inputs), sequences)
        self._linearized: LinearizedNetwork = linearized
        self.outputs = by_column(self._linearized.outputs).requires_grad_()

    def gradient(self) -> Tensor:
        """The gradient of the loss whose `backward` was called last, in the order of the parameters. (parameters,)."""
        assert self.outputs.grad is not None
        return self._linearized.vjp(self.outputs.grad)
