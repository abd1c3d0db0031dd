"""Generalised advantage estimation (GAE), eqs. (18)-(19), over T steps in B environments, exact at ends of episodes."""

from __future__ import annotations

from torch import Tensor

_LEAST_VARIANCE = 1e-12


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Advantages A_t = sum_l (gamma lambda)^l eps_{t+l}, eps_t = r_t + gamma V(o_{t+1}) - V(o_t).

    A terminated episode has no value after its end. A truncated one is bootstrapped from the observation that it
    ended with, not from the first of the next episode. Neither lets a later episode's errors flow back.

    Args:
        rewards: (T, B).
        values: (T, B), V(o_t).
        next_values: (T, B), V of the observation that followed, before any reset.
        terminated, truncated: (T, B) booleans.
        gamma, gae_lambda: discount and lambda.

    Returns:
        (T, B).
    """
    errors = rewards + gamma * next_values * ~terminated - values
    decay = gamma * gae_lambda * (~(terminated | truncated)).to(errors.dtype)
    advantages = errors.numpy()
    for step, following, weight in zip(advantages[-2::-1], advantages[:0:-1], decay.numpy()[-2::-1], strict=True):
        step += weight * following  # NumPy's: small sums cost it less than torch.
    return errors


def explained_variance(errors: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that a critic's values explain, given what they miss it by (the advantages).

    1 for exact values; 0 for what no better than a constant does, and below for worse. Shapes (M,), (M,).
    """
    return 1.0 - float(errors.var() / returns.var().clamp_min(_LEAST_VARIANCE))
