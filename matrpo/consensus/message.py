"""Messages of the link protocol, and their validation: header and payload (log ratios u of N agents on M samples).

Their bytes: `launch/wire/link_codec.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Frames = Sequence[bytes | memoryview]
"""A multipart message: the frames that a socket sends and receives."""

LARGEST_RATIO = float(np.finfo(np.float16).max)
"""Largest magnitude of a log ratio that is sent or accepted, on either wire type, so that no dual can overflow."""

Kind = Literal["ratios", "ask", "beat", "over", "busy"]
"""The kinds of messages; only `ratios` has a payload."""

_KINDS = get_args(Kind)
LARGEST_NUMBER = 2**53
"""Every number in a header is below this one, so that any language reads it exactly."""


@dataclass(frozen=True, eq=False)
class LinkMessage:
    """A message from one end of a link to the other.

    Attributes:
        kind: `ratios` carries the sender's u for activation k. `ask`: the sender lacks the receiver's u for k.
            `beat`: the sender lives, and has sent all that it sends up to k unasked.
            `over`: the sender takes no part in any activation up to k, and answers for none; if k is the
            largest number of an iteration, it is done with the link in this iteration.
            `busy`: the sender is in another activation and cannot take part in k now.
        sender: agent id.
        incarnation: grows each time the sender's process is started.
        iteration: the learning iteration, from 1 in a run.
        link: index of the link in the graph.
        k: number of the activation, from 1.
        tip: number of the sender's latest state when it opened k; 0 unless `ratios`.
        base: number of the state that the sender then knew both ends to have; 0 unless `ratios`.
        answered: the sender needs no answer. `ratios`: it holds the receiver's for k. `ask`: it knows that they
            were sent, or is asked itself. `over`: the receiver need not confirm.
        u: log ratios, shape (N, M), of the wire's dtype, never changed once sent; None unless `ratios`.
    """

    kind: Kind
    sender: int
    incarnation: int
    iteration: int
    link: int
    k: int
    tip: int = 0
    base: int = 0
    answered: bool = False
    u: np.ndarray | None = None

    @property
    def position(self) -> tuple[int, int]:
        """(iteration, k): grows along everything that a sender opens on a link."""
        return self.iteration, self.k


def has_valid_header(message: LinkMessage, last_k: int) -> bool:
    """Whether all fields but `u` have the right types and ranges; activations go up to `last_k`."""
    m = message
    integers: tuple[object, ...] = (m.sender, m.incarnation, m.iteration, m.link, m.k, m.tip, m.base)
    for number in integers:
        if type(number) is not int or not 0 <= number < LARGEST_NUMBER:
            return False
    kind: object = m.kind
    if type(kind) is not str or kind not in _KINDS or type(m.answered) is not bool:
        return False
    return m.k <= last_k and (kind != "ratios" or m.base <= m.tip < m.k)


def has_valid_payload(message: LinkMessage, dtype: np.dtype[Any], shape: tuple[int, int] | None) -> bool:
    """Whether `u` is there just when it should be, of this dtype and shape (None: any), finite and not too large."""
    u = message.u
    if message.kind != "ratios":
        return u is None
    if not isinstance(u, np.ndarray) or u.dtype != dtype or u.ndim != 2:
        return False
    return (shape is None or u.shape == shape) and bool(np.abs(u).max(initial=0.0) <= LARGEST_RATIO)
