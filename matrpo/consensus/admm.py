"""The closed-form ADMM updates of MATRPO's consensus (equation (22) of Li & He), as one end of a link computes them.

A link e = (i, j) has the sign C_e^q = +1 at its smaller id and -1 at its larger. The paper keeps an estimator z_e^q
and a dual y_e^q at each end q. Both start at zero, so by (60)-(63) the duals of the two ends are equal from
the first activation on (both are nu_e), and by (57)-(59) the estimators are opposite. What an end must keep is thus

    ubar_e = (u^i + u^j) / 2 = C_e^q z_e^q    and    y_e = nu_e,

with u^q = [J^{qn} x^q]_n in R^{N x M} (N agents, M samples, x^q the parameter change, J^{qn} the Jacobian of the log
probability of agent n's action under q's policy): functions of the two ends' log ratios alone.

All is elementwise NumPy in the order (smaller id, larger id), so that both ends get the same bits.
A `Link` (link.py) keeps them, as the states called tip and base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True, eq=False)
class LinkState:
    """ADMM state of one end of a link after an activation: dual variable and mean log ratios.

    Attributes:
        number: the activation that made this state; 0 is the initial state.
        y: dual y_e, shape (N, M).
        ubar: mean log ratios of the two ends, shape (N, M).
    """

    number: int
    y: np.ndarray
    ubar: np.ndarray


def initial_state(shape: tuple[int, int], dtype: DTypeLike = np.float32) -> LinkState:
    """State number 0: y_e = 0 and z_e = 0. `shape` is (N, M)."""
    zeros = np.zeros(shape, dtype)
    return LinkState(0, zeros, zeros)


def commit(state: LinkState, number: int, own_u: np.ndarray, other_u: np.ndarray, sign: int, beta: float) -> LinkState:
    """The updates of z and y in (22), that is (61)-(63), applied to `state`.

    With equal duals, nu_e of (62) is y_e + (beta/2) C_e^q (u^q - u^other), and (61) gives C_e^q z_e^q = ubar_e.

    Args:
        state: the state before.
        number: the activation, which names the new state.
        own_u: this end's log ratios, shape (N, M), of the state's dtype.
        other_u: the other end's, likewise.
        sign: C_e^q of this end.
        beta: penalty.
    """
    first, second = (own_u, other_u) if sign > 0 else (other_u, own_u)
    scalar = state.y.dtype.type
    ubar = (first + second) * scalar(0.5)
    y = state.y + (first - second) * scalar(beta / 2)
    return LinkState(number, y, ubar)


def averaging_term(states: Sequence[LinkState], signs: Sequence[int]) -> np.ndarray:
    """The term added to what an agent brings to an average: -sum_e C_e^q y_e, shape (N, M).

    With `commit` at beta = 1, in which each end's own_u is what it brought plus this term, that takes the mean of both
    ends (the pairwise average of Boyd et al. 2006); with a larger one, up to 2, it over-relaxes. The sum over all
    agents stays as it is, whatever is lost.

    `states` and `signs` as of `consensus_term`.
    """
    total = np.zeros_like(states[0].y)
    for state, sign in zip(states, signs, strict=True):
        total -= state.y.dtype.type(sign) * state.y
    return total


def consensus_term(states: Sequence[LinkState], signs: Sequence[int], beta: float) -> np.ndarray:
    """The consensus term added to an agent's advantage in V of (22): sum_e (beta ubar_e - C_e^q y_e), shape (N, M).

    `states` and `signs` (C_e^q) list the agent's links, at least one, in one fixed order.
    """
    scalar = states[0].y.dtype.type
    total = np.zeros_like(states[0].y)
    for state, sign in zip(states, signs, strict=True):
        total += scalar(beta) * state.ubar - scalar(sign) * state.y
    return total
