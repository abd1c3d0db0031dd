"""Sequence structure of a rollout's samples, for training recurrent networks.

Truncated backpropagation through time: a rollout of T steps is cut into chunks of L steps, and the recurrent state that
each chunk begins with is a constant, stored when the samples were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Sequence structure of M = T x B samples, sample m = t * B + b, cut into C chunks of L = T / C steps.

    A *segment* is one environment's part of a chunk: segment c * B + b is environment b in chunk c.

    Attributes:
        starts: (T, B) booleans, samples that are the first of an episode: the state is cleared before them.
        states: (C, B, S), the recurrent state before the first step of each chunk.
    """

    starts: Tensor
    states: Tensor

    @classmethod
    def merge(cls, parts: Sequence[Sequences]) -> Sequences:
        """Join the sequences of several agents as if they were one agent's in more environments; see `side_by_side`."""
        return cls(torch.cat([part.starts for part in parts], dim=1), torch.cat([part.states for part in parts], dim=1))

    @property
    def num_segments(self) -> int:
        """Number of segments, C * B."""
        return self.states.shape[0] * self.states.shape[1]

    @property
    def length(self) -> int:
        """Steps of a chunk, L."""
        return self.starts.shape[0] // self.states.shape[0]

    @property
    def segment_starts(self) -> Tensor:
        """`starts`, segment by segment. Shape (L, C * B)."""
        return self.by_segment(self.starts.flatten()).contiguous()

    def by_segment(self, samples: Tensor) -> Tensor:
        """Reorder samples time-major by segment, as a network is unrolled. Shapes (M, ...) -> (L, C * B, ...)."""
        chunks, num_envs, _ = self.states.shape
        parts = samples.view(chunks, self.length, num_envs, *samples.shape[1:])
        return parts.transpose(0, 1).flatten(1, 2)

    def by_sample(self, values: Tensor) -> Tensor:
        """The inverse of `by_segment`. Shapes (L, C * B, ...) -> (M, ...)."""
        chunks, num_envs, _ = self.states.shape
        parts = values.view(self.length, chunks, num_envs, *values.shape[2:])
        return parts.transpose(0, 1).flatten(0, 2)

    def select(self, segments: Tensor) -> tuple[Tensor, Sequences]:
        """A minibatch of segments, as one chunk.

        Args:
            segments: (k,), their indices.

        Returns:
            The indices of their samples, (L * k,), step by step, and how these follow one another.
        """
        num_envs = self.states.shape[1]
        first = (segments // num_envs) * (self.length * num_envs) + segments % num_envs
        rows = first + num_envs * torch.arange(self.length, device=segments.device).unsqueeze(1)
        starts = self.starts.flatten()[rows]
        return rows.flatten(), Sequences(starts, self.states.flatten(0, 1)[segments].unsqueeze(0))

    def split(self, limit: int) -> list[tuple[slice, Sequences]]:
        """Split into runs of whole chunks, at most `limit` samples each unless one chunk has more; the rows of each."""
        num_envs = self.states.shape[1]
        chunks = max(1, limit // (self.length * num_envs))
        pieces = []
        for first in range(0, len(self.states), chunks):
            times = slice(first * self.length, min(first + chunks, len(self.states)) * self.length)
            piece = Sequences(self.starts[times], self.states[first : first + chunks])
            pieces.append((slice(times.start * num_envs, times.stop * num_envs), piece))
        return pieces


def side_by_side(parts: Sequence[Tensor], length: int) -> Tensor:
    """Batch the samples of several agents as if they were one agent's in more environments.

    Args:
        parts: for each agent (T * B, ...).
        length: T.

    Returns:
        (T * B * agents, ...), step by step.
    """
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.reshape(length, -1, *part.shape[1:]) for part in parts], dim=1).flatten(0, 1)


def minibatches(
    num_samples: int,
    batch_size: int,
    generator: torch.Generator,
    sequences: Sequences | None,
    device: torch.device | None = None,
) -> Iterator[tuple[Tensor | None, Sequences | None]]:
    """Random minibatches of M samples, each once: sample indices, and how the samples follow one another.

    Args:
        num_samples: M.
        batch_size: samples of a minibatch; a last one smaller than half of it is left out. Where it is M or more, the
            only minibatch is all samples in their order, as None.
        generator: shuffles the samples.
        sequences: how the samples follow one another, for a recurrent network: a minibatch is then of as many whole
            segments as have that many samples, but at least one.
        device: of the samples, if it is not the processor.
    """
    for units in random_parts(num_samples, batch_size, generator, sequences, device):
        yield samples_of(units, sequences)


def random_parts(
    num_samples: int,
    batch_size: int,
    generator: torch.Generator,
    sequences: Sequences | None,
    device: torch.device | None = None,
) -> Iterator[Tensor | None]:
    """As `minibatches`: the indices of each minibatch's samples, or of its segments for a recurrent network."""
    if batch_size >= num_samples:
        yield None
        return
    units = sequences.num_segments if sequences else num_samples
    batch_units = max(1, batch_size // sequences.length) if sequences else batch_size
    order = torch.randperm(units, generator=generator).to(device)
    for number, chosen in enumerate(torch.split(order, batch_units)):
        if 2 * len(chosen) < batch_units and number:
            continue
        yield chosen


def subset(samples: Tensor, rows: Tensor | None) -> Tensor:
    """The samples of a minibatch of (M, ...), None for all: in half the time of indexing."""
    return samples if rows is None else samples.index_select(0, rows)


def samples_of(units: Tensor | None, sequences: Sequences | None) -> tuple[Tensor | None, Sequences | None]:
    """Sample indices of a minibatch of `random_parts`, None for all, and how the samples follow one another."""
    if units is None or sequences is None:
        return units, sequences
    return sequences.select(units)
