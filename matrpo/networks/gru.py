"""Recurrent networks of gated recurrent units (GRU), and exact products with their Jacobian over chunks of steps.

A GRU layer maps inputs x_t and its state h_{t-1} to (Cho et al. 2014, in the variant of cuDNN and torch)

    r_t = sigma(a_r + c_r)    z_t = sigma(a_z + c_z)    n_t = tanh(a_n + r_t * c_n)    h_t = (1 - z_t) n_t + z_t h_{t-1}

with a = W x_t + b and c = U h_{t-1} + d. A change of the parameters moves h_t by
sum_gates (alpha * da + beta * dc) + z_t dh_{t-1}, with alpha = dh_t/da and beta = dh_t/dc at fixed h_{t-1}.
`LinearizedGRU` keeps alpha, beta and z: what does not depend on dh_{t-1} is a matrix product over all steps at once,
and one product with U a step is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.networks.mlp import ACTIVATIONS, MLP, LinearizedMLP, second_moments
from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import NetworkSettings


class GRU(nn.Module):
    """One GRU layer.

    Args:
        inputs, size: length of x_t and of h_t.
        generator: source of the initial weights.
    """

    def __init__(self, inputs: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.input = nn.Linear(inputs, 3 * size)
        self.recurrent = nn.Linear(size, 3 * size)
        nn.init.normal_(self.input.weight, std=1.0 / math.sqrt(inputs), generator=generator)
        for gate in self.recurrent.weight.chunk(3):
            nn.init.orthogonal_(gate, generator=generator)
        nn.init.zeros_(self.input.bias)
        nn.init.zeros_(self.recurrent.bias)

    def forward(self, inputs: Tensor, starts: Tensor, state: Tensor) -> Tensor:
        """Recurrent states after each step. Shapes (T, B, inputs), (T, B), (B, size) -> (T, B, size)."""
        states, sizes = [], [2 * self.size, self.size]
        a_rz, a_n = (part.unbind() for part in torch.split(self.input(inputs), sizes, dim=2))
        for rz, n, cleared in zip(a_rz, a_n, _where_any(starts), strict=True):
            if cleared is not None:
                state = state.masked_fill(cleared, 0.0)
            c_rz, c_n = torch.split(self.recurrent(state), sizes, dim=1)
            r, z = torch.sigmoid(rz + c_rz).chunk(2, dim=1)
            n = torch.tanh(torch.addcmul(n, r, c_n))
            state = torch.lerp(n, state, z)
            states.append(state)
        return torch.stack(states)


class RecurrentNetwork(nn.Module):
    """Hidden layers, GRU layers as wide as the last of them, and a linear output layer (as HARL's, its appendix K).

    Args:
        sizes: (inputs, hidden..., outputs), at least one hidden.
        networks: what the hidden layers are like, and how many GRU layers there are, at least one.
        generator: source of the initial weights.
        output_gain: scale of the last layer's initial weights, relative to variance-preserving ones.

    Attributes:
        state_size: length of the recurrent state, of all GRU layers together.
        output_layer: the last layer.
    """

    def __init__(
        self, sizes: Sequence[int], networks: NetworkSettings, generator: torch.Generator, output_gain: float = 1.0
    ) -> None:
        super().__init__()
        *encoder_sizes, outputs = sizes
        width, recurrent_layers = encoder_sizes[-1], networks.recurrent_layers
        self.encoder = MLP(encoder_sizes, networks, generator, ACTIVATIONS[networks.activation].gain)
        self.layers = nn.ModuleList(GRU(width, width, generator) for _ in range(recurrent_layers))
        self.output_layer = nn.Linear(width, outputs)
        nn.init.normal_(self.output_layer.weight, std=output_gain / math.sqrt(width), generator=generator)
        nn.init.zeros_(self.output_layer.bias)
        self.state_size = recurrent_layers * width

    @property
    def recurrent_layers(self) -> list[GRU]:
        """The GRU layers, with their static type."""
        return [layer for layer in self.layers if isinstance(layer, GRU)]

    def forward(self, inputs: Tensor, sequences: Sequences | None = None) -> Tensor:
        """Map a rollout's samples, (M, inputs), to (M, outputs), each chunk from its stored recurrent state."""
        outputs: Tensor = self.output_layer(self.features(inputs, sequences))
        return outputs

    def features(self, inputs: Tensor, sequences: Sequences | None = None) -> Tensor:
        """Inputs of the last layer on the samples of a rollout."""
        assert sequences is not None
        states = sequences.states.flatten(0, 1)
        features, _ = self._remember(sequences.by_segment(inputs), sequences.segment_starts, states)
        return sequences.by_sample(features)

    def unroll(self, inputs: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Unroll the network over T steps of B environments.

        Args:
            inputs: (T, B, inputs).
            starts: (T, B) booleans, where the recurrent state is cleared before the step.
            state: (B, state_size), the recurrent state before the first step.

        Returns:
            The outputs, (T, B, outputs), and the states before each step and after the last, (T + 1, B, state_size).
        """
        features, states = self._remember(inputs, starts, state)
        return self.output_layer(features), states

    def _remember(self, inputs: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder.hidden(self.encoder(inputs))
        states = []
        for layer, before in zip(self.recurrent_layers, state.chunk(len(self.layers), dim=1), strict=True):
            features = layer(features, starts, before)
            states.append(torch.cat([before.unsqueeze(0), features]))
        return features, torch.cat(states, dim=2)

    def linearize(
        self, inputs: Tensor, limit: int, sequences: Sequences | None = None
    ) -> list[tuple[slice, LinearizedRecurrentNetwork]]:
        """Linearise on (M, inputs), in pieces as `Sequences.split` makes them; the rows and the piece of each."""
        assert sequences is not None
        return [(rows, LinearizedRecurrentNetwork(self, inputs[rows], part)) for rows, part in sequences.split(limit)]


class LinearizedRecurrentNetwork:
    """A recurrent network linearised at its parameters and some inputs: its outputs and products with their Jacobian.

    As `LinearizedMLP`, with M samples in the place of a batch.

    Attributes:
        outputs: (M, outputs).
    """

    def __init__(self, network: RecurrentNetwork, inputs: Tensor, sequences: Sequences) -> None:
        self._sequences = sequences
        starts = sequences.segment_starts
        self._time = starts.shape
        with torch.no_grad():
            self._encoder = LinearizedMLP(network.encoder, sequences.by_segment(inputs).flatten(0, 1))
            features, self._slope = network.encoder.hidden.linearize(self._encoder.outputs)
            self._layers = []
            states = sequences.states.flatten(0, 1).chunk(len(network.layers), dim=1)
            for layer, state in zip(network.recurrent_layers, states, strict=True):
                self._layers.append(LinearizedGRU(layer, features.view(*self._time, -1), starts, state))
                features = self._layers[-1].outputs
            self._features = features
            self._weight = network.output_layer.weight.detach()
            self.outputs = self._by_sample(network.output_layer(features))

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector."""
        return sum(self._sizes())

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector product: change of the outputs along a direction. Shapes: (parameters,) -> (M, outputs)."""
        encoder, *layers, last = torch.split(direction, self._sizes())
        tangent = self._slope.jvp(self._encoder.jvp(encoder))
        for layer, part in zip(self._layers, layers, strict=True):
            tangent = layer.jvp(part, tangent)
        weight, bias = _split_linear(last, self._weight.shape)
        outputs = torch.addmm(bias, self._features, weight.T).addmm_(tangent, self._weight.T)
        return self._by_sample(outputs)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Vector-Jacobian product: transpose of `jvp`, summed over samples. Shapes: (M, outputs) -> (parameters,)."""
        return torch.cat([part.reshape(-1) for part in self.gradients(cotangent)])

    def gradients(self, cotangent: Tensor) -> list[Tensor]:
        """Gradients with respect to the parameters, one by one, of a loss whose gradient at the outputs is given."""
        pairs, encoder = self._pull_back(cotangent)
        parts = [part for inputs, outputs in pairs for part in (outputs.T @ inputs, outputs.sum(0))]
        return self._encoder.gradients(encoder) + parts

    def kronecker_factors(self, cotangent: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Second moments of each matrix's inputs and output cotangents, summed over the samples; see `LinearizedMLP`.

        A GRU layer has two matrices, W and U; the steps of a chunk count as samples.
        """
        pairs, encoder = self._pull_back(cotangent)
        factors = [(second_moments(inputs), outputs.T @ outputs) for inputs, outputs in pairs]
        return self._encoder.kronecker_factors(encoder) + factors

    def _pull_back(self, cotangent: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The inputs of each matrix after the encoder with the cotangents at its outputs; those of the encoder."""
        outputs = self._sequences.by_segment(cotangent).flatten(0, 1)
        pairs = [(self._features, outputs)]
        cotangent = outputs @ self._weight
        for layer in reversed(self._layers):
            through_input, through_state = layer.pull_back(cotangent)
            pairs = [(layer.inputs, through_input), (layer.states, through_state), *pairs]
            cotangent = through_input @ layer.input_weight
        return pairs, self._slope.vjp(cotangent)

    def _by_sample(self, values: Tensor) -> Tensor:
        return self._sequences.by_sample(values.view(*self._time, -1))

    def _sizes(self) -> list[int]:
        layers = [layer.num_parameters for layer in self._layers]
        return [self._encoder.num_parameters, *layers, self._weight.numel() + len(self._weight)]


class LinearizedGRU:
    """A GRU layer linearised at its parameters, some inputs and a first state: T steps of B segments, rows t * B + b.

    Attributes:
        inputs: x, (T * B, inputs).
        states: h before each step, cleared where an episode starts, (T * B, size).
        outputs: h after each step, (T * B, size).
        input_weight: W.
    """

    def __init__(self, layer: GRU, inputs: Tensor, starts: Tensor, state: Tensor) -> None:
        steps, batch, size = *starts.shape, layer.size
        self._cleared = _where_any(starts)
        self._shape = (steps, batch, 3, size)
        self.inputs = inputs.flatten(0, 1)
        self.input_weight = layer.input.weight.detach()
        self._recurrent_weight = layer.recurrent.weight.detach()
        a = layer.input(inputs)
        c = torch.empty_like(a)
        before, after = a.new_empty(steps, batch, size), a.new_empty(steps, batch, size)
        rz, c_rz, c_n = a[:, :, : 2 * size], c[:, :, : 2 * size], c[:, :, 2 * size :]
        r, z, n = a.split(size, dim=2)
        bias, weight = layer.recurrent.bias, layer.recurrent.weight.T
        # All steps' views at once: made one by one they would take as long as what is computed on them.
        views = zip(*(part.unbind() for part in (before, c, rz, c_rz, r, z, n, c_n, after)), strict=True)
        for cleared, (h, c_t, rz_t, c_rz_t, r_t, z_t, n_t, c_n_t, next_h) in zip(self._cleared, views, strict=True):
            h.copy_(state)
            if cleared is not None:
                h.masked_fill_(cleared, 0.0)
            torch.addmm(bias, h, weight, out=c_t)
            rz_t.add_(c_rz_t).sigmoid_()
            n_t.addcmul_(r_t, c_n_t).tanh_()
            state = torch.lerp(n_t, h, z_t, out=next_h)
        through_n = (1.0 - z) * (1.0 - n * n)
        through_r = through_n * c_n * r * (1.0 - r)
        through_z = (before - n) * z * (1.0 - z)
        self._alpha = torch.stack([through_r, through_z, through_n], dim=2)
        self._beta = torch.stack([through_r, through_z, through_n * r], dim=2)
        self._carry = z.contiguous()
        self.states, self.outputs = before.flatten(0, 1), after.flatten(0, 1)

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector: W, b, U, d."""
        return sum(weight.numel() + len(weight) for weight in (self.input_weight, self._recurrent_weight))

    def jvp(self, direction: Tensor, tangent: Tensor) -> Tensor:
        """Jacobian-vector product with changes of parameters, (parameters,), and inputs, (T * B, inputs)."""
        middle = self.input_weight.numel() + len(self.input_weight)
        weight, bias = _split_linear(direction[:middle], self.input_weight.shape)
        a = torch.addmm(bias, self.inputs, weight.T).addmm_(tangent, self.input_weight.T)
        weight, bias = _split_linear(direction[middle:], self._recurrent_weight.shape)
        c = torch.addmm(bias, self.states, weight.T)
        change = a.view(self._shape).mul_(self._alpha).addcmul_(self._beta, c.view(self._shape)).sum(2)
        for t in range(1, len(change)):
            before = change[t - 1]
            if (cleared := self._cleared[t]) is not None:
                before = before.masked_fill(cleared, 0.0)
            c = (before @ self._recurrent_weight.T).view(self._shape[1:]).mul_(self._beta[t])
            change[t].addcmul_(self._carry[t], before).add_(c.sum(1))
        return change.flatten(0, 1)

    def pull_back(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of `jvp` up to the matrices: (T * B, size) -> cotangents of a and of c, each (T * B, 3 * size)."""
        change = cotangent.view(*self._shape[:2], self._shape[3]).clone()
        c = torch.empty_like(self._beta)
        dh, columns, dc, rows = (part.unbind() for part in (change, change.unsqueeze(2), c, c.flatten(2)))
        beta, carry = self._beta.unbind(), self._carry.unbind()
        for t in reversed(range(len(dh))):
            torch.mul(beta[t], columns[t], out=dc[t])
            if t:
                before = torch.addcmul(rows[t] @ self._recurrent_weight, carry[t], dh[t])
                if (cleared := self._cleared[t]) is not None:
                    before.masked_fill_(cleared, 0.0)
                dh[t - 1].add_(before)
        a = self._alpha * change.unsqueeze(2)
        return a.flatten(2).flatten(0, 1), c.flatten(2).flatten(0, 1)


Network = MLP | RecurrentNetwork
LinearizedNetwork = LinearizedMLP | LinearizedRecurrentNetwork


def make_network(
    inputs: int, outputs: int, networks: NetworkSettings, generator: torch.Generator, output_gain: float = 1.0
) -> Network:
    """Build a network with hidden layers as configured: feedforward if `recurrent_layers` is 0, else recurrent."""
    kind = RecurrentNetwork if networks.recurrent_layers else MLP
    return kind((inputs, *networks.hidden_sizes, outputs), networks, generator, output_gain)


def _where_any(starts: Tensor) -> list[Tensor | None]:
    """For each step the column of flags, (B, 1), or None where none is set. Shape (T, B)."""
    return [
        column if any_set else None for column, any_set in zip(starts.unsqueeze(2), starts.any(1).tolist(), strict=True)
    ]


def _split_linear(direction: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Split a linear layer's part of a flat direction into weight, of this shape, and bias."""
    rows, columns = shape
    return direction[: rows * columns].view(rows, columns), direction[rows * columns :]
