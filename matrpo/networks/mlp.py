"""Feedforward networks, and exact products with their Jacobian for the natural gradient.

`LinearizedMLP` keeps the hidden layers of a network at some inputs, and applies the Jacobian of the outputs to a
direction (forward mode) or its transpose to a cotangent (reverse mode) with two matrix products a layer. Autograd would
build and walk a graph at every product; this walks the layers. The weights are the network's own, not copies: the
products are right as long as they stay what they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import NetworkSettings

WIDEST = 4096
"""Inputs of a layer from which on their second moments are their diagonal alone: a matrix grows with the square, and
its eigenvectors with the cube."""

_FEW_INPUTS = 16
"""Inputs of a layer from which on the order of a product's factors makes no difference to its bits."""

_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


@dataclass(frozen=True)
class Activation:
    """An elementwise activation, and the gain for initialisation.

    Attributes:
        function: the activation, which autograd can differentiate.
        apply_: the same in the place of its argument, without autograd.
        backward: cotangents of its inputs, from those of its outputs and its *outputs*.
        gain: relative to variance-preserving initial weights.
    """

    function: Callable[[Tensor], Tensor]
    apply_: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]
    gain: float

    def derivative(self, outputs: Tensor) -> Tensor:
        """The derivative, as a function of the outputs."""
        return self.backward(outputs.new_ones(()).expand_as(outputs), outputs)


_TWO, _MINUS_ONE = torch.tensor(2.0), torch.tensor(-1.0)
"""Small arrays are multiplied by a tensor in half the time that a number takes."""


def _tanh(values: Tensor) -> Tensor:
    """tanh(x) = 2 sigma(2 x) - 1, within 2e-7: on many processors torch's tanh takes three times as long as sigma."""
    return torch.add(_MINUS_ONE, torch.sigmoid(values * _TWO), alpha=2.0)


def _tanh_(values: Tensor) -> Tensor:
    return torch.add(_MINUS_ONE, values.mul_(_TWO).sigmoid_(), alpha=2.0, out=values)


def _elu_(values: Tensor) -> Tensor:
    return nn.functional.elu(values, inplace=True)


def _elu_backward(alpha: float, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """`Activation.backward` of `scale` times ELU."""
    return lambda cotangent, h: torch.ops.aten.elu_backward(cotangent, alpha, scale, 1.0, True, h)


def _relu_backward(cotangent: Tensor, outputs: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.threshold_backward(cotangent, outputs, 0.0)
    return result


ACTIVATIONS = {
    "selu": Activation(torch.selu, torch.selu_, _elu_backward(_SELU_ALPHA, _SELU_SCALE), 1.0),
    "elu": Activation(nn.functional.elu, _elu_, _elu_backward(1.0, 1.0), math.sqrt(2.0)),
    "tanh": Activation(_tanh, _tanh_, torch.ops.aten.tanh_backward, 5.0 / 3.0),
    "relu": Activation(torch.relu, torch.relu_, _relu_backward, math.sqrt(2.0)),
}
"""The activations of `NetworkSettings.activation`. SELU is the papers' (section VI.A)."""


@functools.cache
def _neutral(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gain 1 and offset 0 of a layer normalisation, (size,) each: given none, torch's kernel takes twice as long."""
    return torch.ones(size, dtype=dtype, device=device), torch.zeros(size, dtype=dtype, device=device)


@dataclass(frozen=True)
class HiddenFunction:
    """Nonlinearity after a hidden linear layer: an activation, then optional layer normalisation.

    Attributes:
        activation: comes first.
        normalize: whether a layer's values are then brought to mean 0 and variance 1, sample by sample.
    """

    activation: Activation
    normalize: bool

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the nonlinearity. Shapes (..., size) -> (..., size)."""
        return self.normalized(self.activation.function(values))

    def apply_(self, values: Tensor) -> Tensor:
        """The same of values that are overwritten, without autograd."""
        return self.normalized(self.activation.apply_(values))

    def normalized(self, values: Tensor) -> Tensor:
        """The values after layer normalisation, if there is one."""
        if not self.normalize:
            return values
        return torch.layer_norm(
            values, values.shape[-1:], *_neutral(values.shape[-1], values.dtype, values.device), 1e-5
        )

    def linearize(self, values: Tensor) -> tuple[Tensor, HiddenSlope]:
        """The function of some values, which are overwritten, and its derivative there."""
        activated = self.activation.apply_(values)
        if not self.normalize:
            return activated, HiddenSlope(self.activation, activated)
        neutral = _neutral(activated.shape[-1], activated.dtype, activated.device)
        outputs, *moments = torch.native_layer_norm(activated, activated.shape[-1:], *neutral, 1e-5)
        return outputs, HiddenSlope(self.activation, activated, moments)


@dataclass(frozen=True)
class HiddenSlope:
    """The derivative of a `HiddenFunction` at some values.

    Attributes:
        activation: its activation.
        activated: the activation's outputs, (..., size).
        moments: their means, and the inverse of what they were divided by, if they are then normalised.
    """

    activation: Activation
    activated: Tensor
    moments: Sequence[Tensor] | None = None

    @functools.cached_property
    def slopes(self) -> Tensor:
        """The activation's derivative, (..., size)."""
        return self.activation.derivative(self.activated)

    def jvp(self, tangent: Tensor) -> Tensor:
        """Jacobian-vector product: change of the outputs along a change of the inputs, which is overwritten."""
        return self._normalize(tangent.mul_(self.slopes))

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Vector-Jacobian product, the transpose of `jvp`. The normalisation's Jacobian is a symmetric matrix."""
        return self.activation.backward(self._normalize(cotangent), self.activated)

    def _normalize(self, change: Tensor) -> Tensor:
        if self.moments is None:
            return change
        of_inputs = [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        shape = change.shape[-1:]
        normalized: Tensor = backward(change, self.activated, shape, *self.moments, None, None, of_inputs)[0]
        return normalized


class MLP(nn.Module):
    """Multilayer perceptron: linear layers with one activation between them.

    Args:
        sizes: (inputs, hidden..., outputs).
        networks: activation, layer normalisation and initialisation.
        generator: source of the initial weights.
        output_gain: scale of the last layer's initial weights, relative to variance-preserving ones.

    Attributes:
        state_size: length of the recurrent state, 0: it has none, unlike its counterpart `gru.RecurrentNetwork`.
    """

    state_size = 0

    def __init__(
        self, sizes: Sequence[int], networks: NetworkSettings, generator: torch.Generator, output_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.hidden = HiddenFunction(ACTIVATIONS[networks.activation], networks.feature_normalization)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for index, layer in enumerate(self.linear_layers):
            last = index == len(self.layers) - 1
            gain = output_gain if last else self.hidden.activation.gain
            if networks.orthogonal_initialization:
                nn.init.orthogonal_(layer.weight, gain, generator)
            else:
                nn.init.normal_(layer.weight, std=gain / math.sqrt(max(layer.in_features, 1)), generator=generator)
            nn.init.zeros_(layer.bias)

    @property
    def linear_layers(self) -> list[nn.Linear]:
        """The linear layers, with their static type."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer."""
        return self.linear_layers[-1]

    def forward(self, inputs: Tensor, sequences: Sequences | None = None) -> Tensor:
        """Map (batch, inputs) to (batch, outputs), whatever order the samples have."""
        output: Tensor = self.output_layer(self.features(inputs, sequences))
        return output

    def features(self, inputs: Tensor, sequences: Sequences | None = None) -> Tensor:  # noqa: ARG002
        """Inputs of the last layer."""
        inputs = self.hidden.normalized(inputs)
        for layer in self.linear_layers[:-1]:
            inputs = self.hidden(layer(inputs))
        return inputs

    def unroll(self, inputs: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Map T steps, (T, B, inputs), to (T, B, outputs), and return empty recurrent states, (T + 1, B, 0)."""
        return self(inputs), state.expand(len(inputs) + 1, *state.shape)

    def linearize(
        self,
        inputs: Tensor,
        limit: int,
        sequences: Sequences | None = None,  # noqa: ARG002
    ) -> list[tuple[slice, LinearizedMLP]]:
        """Linearise on (M, inputs), in pieces of at most `limit` samples; the rows and the piece of each."""
        pieces = [slice(start, start + limit) for start in range(0, len(inputs), limit)]
        return [(rows, LinearizedMLP(self, inputs[rows])) for rows in pieces]


class LinearizedMLP:
    """A network linearised at its parameters and some inputs: its outputs and products with their Jacobian.

    Parameters and directions are flat vectors in the order of `MLP.parameters()` (each layer's weight, then bias).

    Attributes:
        outputs: (batch, outputs).
    """

    def __init__(self, network: MLP, inputs: Tensor) -> None:
        *hidden, last = network.linear_layers
        self._weights = [layer.weight.detach() for layer in (*hidden, last)]
        self._inputs = [network.hidden.normalized(inputs)]
        self._slopes: list[HiddenSlope] = []
        with torch.no_grad():
            for layer in hidden:
                values = torch.addmm(layer.bias, self._inputs[-1], layer.weight.T)
                outputs, slope = network.hidden.linearize(values)
                self._inputs.append(outputs)
                self._slopes.append(slope)
            self.outputs = torch.addmm(last.bias, self._inputs[-1], last.weight.T)

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector."""
        return sum(weight.numel() + weight.shape[0] for weight in self._weights)

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector product: outputs' change along a direction. Shapes: (parameters,) -> (batch, outputs)."""
        tangent = None
        for layer, (weight, bias) in enumerate(self._split(direction)):
            through_parameters = torch.addmm(bias, self._inputs[layer], weight.T)
            if tangent is not None:
                through_parameters.addmm_(tangent, self._weights[layer].T)
            tangent = through_parameters
            if layer < len(self._slopes):
                tangent = self._slopes[layer].jvp(tangent)
        assert tangent is not None
        return tangent

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Vector-Jacobian product: transpose of `jvp`, summed over batch. Shapes: (batch, outputs) -> (parameters,)."""
        return torch.cat([part.reshape(-1) for part in self.gradients(cotangent)])

    def gradients(self, cotangent: Tensor) -> list[Tensor]:
        """Gradients with respect to the parameters, one by one, of a loss whose gradient at the outputs is given."""
        parts: list[Tensor] = []
        for layer in reversed(range(len(self._weights))):
            parts += [cotangent.sum(0), _transposed_product(cotangent, self._inputs[layer])]
            if layer:
                cotangent = self._slopes[layer - 1].vjp(cotangent @ self._weights[layer])
        return parts[::-1]

    def kronecker_factors(self, cotangent: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Second moments of each layer's inputs and output cotangents, summed over the batch (K-FAC).

        Args:
            cotangent: (batch, outputs).

        Returns:
            For each layer, that of its inputs with a 1 for the bias, (inputs + 1, inputs + 1), or its diagonal alone,
            (inputs + 1,), from `WIDEST` inputs on, and that of the cotangents at its outputs, (outputs, outputs).
        """
        factors = []
        for layer in reversed(range(len(self._weights))):
            factors.append((second_moments(self._inputs[layer]), cotangent.T @ cotangent))
            if layer:
                cotangent = self._slopes[layer - 1].vjp(cotangent @ self._weights[layer])
        return factors[::-1]

    def _split(self, direction: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts, start = [], 0
        for weight in self._weights:
            rows, columns = weight.shape
            middle, end = start + rows * columns, start + rows * columns + rows
            parts.append((direction[start:middle].view(rows, columns), direction[middle:end]))
            start = end
        return parts


def second_moments(inputs: Tensor) -> Tensor:
    """Sums over the batch of the products of inputs, a 1 for the bias after them; from `WIDEST` on of their squares.

    Shapes (M, inputs) -> (inputs + 1, inputs + 1) or (inputs + 1,).
    """
    count = inputs.new_full((1,), len(inputs))
    if inputs.shape[1] >= WIDEST:
        return torch.cat([inputs.square().sum(0), count])
    sums = inputs.sum(0)
    above = torch.cat([inputs.T @ inputs, sums.unsqueeze(1)], dim=1)
    return torch.cat([above, torch.cat([sums, count]).unsqueeze(0)])


def _transposed_product(cotangent: Tensor, inputs: Tensor) -> Tensor:
    """cotangent^T inputs, by the faster order of factors. Shapes (M, outputs), (M, inputs) -> (outputs, inputs)."""
    if _FEW_INPUTS <= inputs.shape[1] < cotangent.shape[1]:
        return (inputs.T @ cotangent).T
    return cotangent.T @ inputs


def flat_parameters(parameters: Sequence[Tensor]) -> Tensor:
    """Copy parameters into one vector, in their order."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters])


def set_flat_parameters(parameters: Sequence[Tensor], values: Tensor) -> None:
    """Write a flat vector back into parameters, in their order."""
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(values[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
