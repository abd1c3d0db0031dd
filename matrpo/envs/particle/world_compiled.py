"""The loops of particle worlds, compiled: see `kernels.py`. `world_numpy.py` says what each function does."""

from __future__ import annotations

import math

import numpy as np

from matrpo.envs.particle.compiling import compiled, inlined
from matrpo.envs.particle.physics import CONTACT_FORCE, CONTACT_MARGIN, DAMPING, TIME_STEP

_TINY = float(np.finfo(np.float64).tiny)
_KEPT = 1 - DAMPING


@compiled("i8(f8[:,:,::1], i8[:,::1], f8[:,::1], f8[:,:,::1], i8[:,::1], f8[::1])")
def measure(
    positions: np.ndarray,
    pairs: np.ndarray,
    reach: np.ndarray,
    squared: np.ndarray,
    contacts: np.ndarray,
    depth: np.ndarray,
) -> int:
    """See `world_numpy.measure`."""
    num_agents, entities, num_envs = squared.shape
    for q in range(num_agents):
        for i in range(entities):
            for b in range(num_envs):
                x = positions[0, i, b] - positions[0, q, b]
                y = positions[1, i, b] - positions[1, q, b]
                squared[q, i, b] = x * x + y * y
    found = 0
    for pair in range(pairs.shape[1]):
        q, i = pairs[0, pair], pairs[1, pair]
        for b in range(num_envs):
            if squared[q, i, b] < reach[1, pair]:
                contacts[0, found], contacts[1, found], contacts[2, found] = q, i, b
                depth[found] = -((math.sqrt(squared[q, i, b]) - reach[0, pair]) / CONTACT_MARGIN)
                found += 1
    return found


@inlined
def _push(delta: float, squared: float, softened: float) -> float:
    # Bodies at the very same point push each other nowhere, rather than by 0 / 0.
    distance = max(math.sqrt(squared), _TINY)
    return CONTACT_FORCE * delta / distance * (softened * CONTACT_MARGIN)


@inlined
def _limit_speed(velocities: np.ndarray, agent: int, most: float) -> None:
    for b in range(velocities.shape[2]):
        x, y = velocities[0, agent, b], velocities[1, agent, b]
        speed = math.sqrt(x * x + y * y)
        if speed > most:
            velocities[0, agent, b] = x / speed * most
            velocities[1, agent, b] = y / speed * most


@compiled("void(f8[:,:,::1], f8[::1], i8[:,::1], f8[:,::1], f8[:,:,::1], f8[:,:,::1], f8[:,:,::1])")
def advance(
    thrust: np.ndarray,
    softened: np.ndarray,
    contacts: np.ndarray,
    agents: np.ndarray,
    squared: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
) -> None:
    """See `world_numpy.advance`."""
    num_agents, num_envs = thrust.shape[1:]
    for c in range(2):
        for q in range(num_agents):
            for b in range(num_envs):
                thrust[c, q, b] *= agents[0, q]
        for k in range(len(softened)):
            q, i, b = contacts[0, k], contacts[1, k], contacts[2, k]
            if i < num_agents:
                thrust[c, i, b] += _push(positions[c, i, b] - positions[c, q, b], squared[q, i, b], softened[k])
        for k in range(len(softened)):
            q, i, b = contacts[0, k], contacts[1, k], contacts[2, k]
            thrust[c, q, b] -= _push(positions[c, i, b] - positions[c, q, b], squared[q, i, b], softened[k])
        for q in range(num_agents):
            for b in range(num_envs):
                positions[c, q, b] += velocities[c, q, b] * TIME_STEP
                velocities[c, q, b] = velocities[c, q, b] * _KEPT + thrust[c, q, b] * agents[1, q]
    for q in range(num_agents):
        if agents[2, q] < math.inf:
            _limit_speed(velocities, q, agents[2, q])


@compiled("void(i8[:,::1], f8[::1], f8[:,::1])")
def count_collisions(contacts: np.ndarray, depth: np.ndarray, collisions: np.ndarray) -> None:
    """See `world_numpy.count_collisions`."""
    for k in range(len(depth)):
        q, i, b = contacts[0, k], contacts[1, k], contacts[2, k]
        if depth[k] > 0 and i < len(collisions):
            collisions[q, b] += 1
            collisions[i, b] += 1


@compiled("void(f8[:,:,::1], f8[::1])")
def sum_uncovered(squared: np.ndarray, uncovered: np.ndarray) -> None:
    """See `world_numpy.sum_uncovered`."""
    num_agents, entities, num_envs = squared.shape
    least = np.empty(num_envs)
    for b in range(num_envs):
        uncovered[b] = 0.0
    for i in range(num_agents, entities):
        for b in range(num_envs):
            least[b] = squared[0, i, b]
        for q in range(1, num_agents):
            for b in range(num_envs):
                # NaN is the least, as it is to NumPy.
                least[b] = least[b] if least[b] <= squared[q, i, b] or least[b] != least[b] else squared[q, i, b]
        for b in range(num_envs):
            uncovered[b] += math.sqrt(least[b])


@compiled("void(f8[:,:,::1], i8[:,::1], f8[::1], f8[:,::1])")
def pay_navigation(squared: np.ndarray, contacts: np.ndarray, depth: np.ndarray, rewards: np.ndarray) -> None:
    """See `world_numpy.pay_navigation`."""
    num_agents, num_envs = rewards.shape
    uncovered = np.empty(num_envs)
    sum_uncovered(squared, uncovered)
    for k in range(len(depth)):
        q, i, b = contacts[0, k], contacts[1, k], contacts[2, k]
        if depth[k] > 0 and i < num_agents:
            rewards[q, b] = rewards[i, b] = -1.0
    for b in range(num_envs):
        rewards[0, b] -= uncovered[b]


@compiled("void(f8[:,:,::1], i8[:,::1], f8[::1], f8, f8[:,::1])")
def pay_spread(
    squared: np.ndarray, contacts: np.ndarray, depth: np.ndarray, local_ratio: float, rewards: np.ndarray
) -> None:
    """See `world_numpy.pay_spread`."""
    num_agents, num_envs = rewards.shape
    uncovered = np.empty(num_envs)
    sum_uncovered(squared, uncovered)
    count_collisions(contacts, depth, rewards)
    for q in range(num_agents):
        for b in range(num_envs):
            rewards[q, b] = -((1 - local_ratio) * uncovered[b]) - local_ratio * rewards[q, b]


@compiled("void(f8[:,:,::1], f8[:,:,::1], f4[:,:,::1])")
def describe_coverage(positions: np.ndarray, velocities: np.ndarray, observations: np.ndarray) -> None:
    """See `world_numpy.describe_coverage`."""
    num_agents, num_envs, size = observations.shape
    entities = positions.shape[1]
    for q in range(num_agents):
        for b in range(num_envs):
            observations[q, b, 0], observations[q, b, 1] = velocities[0, q, b], velocities[1, q, b]
            observations[q, b, 2], observations[q, b, 3] = positions[0, q, b], positions[1, q, b]
        column = 4
        for place in range(num_agents, num_agents + entities):
            i = place if place < entities else place - entities
            if i != q:
                for b in range(num_envs):
                    observations[q, b, column] = positions[0, i, b] - positions[0, q, b]
                    observations[q, b, column + 1] = positions[1, i, b] - positions[1, q, b]
                column += 2
        for b in range(num_envs):
            for rest in range(column, size):
                observations[q, b, rest] = 0.0


@compiled("b1(f4[:,::1], f4[::1])")
def allowed(indices: np.ndarray, sizes: np.ndarray) -> bool:
    """See `world_numpy.allowed`."""
    for b in range(len(indices)):
        for column in range(len(sizes)):
            if not 0 <= indices[b, column] < sizes[column]:
                return False
    return True
