"""The loops of particle worlds in NumPy, the reference of `world_compiled.py`: see `kernels.py`.

N agents, E entities, agents first, B environments. Of the pairs of bodies that can collide, those of two agents come
first; of K contacts, which are a pair in an environment, likewise.
"""

from __future__ import annotations

import numpy as np

from matrpo.envs.particle.physics import CONTACT_FORCE, CONTACT_MARGIN, DAMPING, TIME_STEP


def measure(
    positions: np.ndarray,
    pairs: np.ndarray,
    reach: np.ndarray,
    squared: np.ndarray,
    contacts: np.ndarray,
    depth: np.ndarray,
) -> int:
    """Find the distances between bodies, and the contacts.

    Args:
        positions: (2, E, B).
        pairs: (2, P), the two bodies of every pair that can collide.
        reach: (2, P), the sum of their radii, and the square of the distance from which on they feel each other.
        squared: written, (N, E, B), squared distance of every entity from every agent.
        contacts: written from the beginning on, (3, P B): two bodies in reach of each other, and the environment.
        depth: written likewise, (P B,), the depth by which they overlap, in widths of the softened contact.

    Returns:
        K, the number of contacts.
    """
    num_agents, _, num_envs = squared.shape
    relative = positions[:, None, :, :] - positions[:, :num_agents, None, :]
    np.add(relative[0] * relative[0], relative[1] * relative[1], out=squared)
    distances = squared[*pairs]
    pair, env = np.divmod(np.flatnonzero(distances < reach[1, :, None]), num_envs)
    found = len(pair)
    contacts[:2, :found], contacts[2, :found] = pairs[:, pair], env
    depth[:found] = -((np.sqrt(distances[pair, env]) - reach[0, pair]) / CONTACT_MARGIN)
    return found


def advance(
    thrust: np.ndarray,
    softened: np.ndarray,
    contacts: np.ndarray,
    agents: np.ndarray,
    squared: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
) -> None:
    """Move the agents by one time step.

    Args:
        thrust: (2, N, B), each agent's movement in units of its force; it is overwritten.
        softened: (K,), the softened depth of each contact, in widths of it.
        contacts: (3, P B), from `measure`, as is `squared`, (N, E, B).
        agents: (3, N), their forces, what a force changes their velocity by, and their greatest speeds.
        positions: changed, (2, E, B).
        velocities: changed, (2, N, B).
    """
    num_agents = thrust.shape[1]
    thrust *= agents[0, :, None]
    first, second, env = where = contacts[:, : len(softened)]
    # Bodies at the very same point push each other nowhere, rather than by 0 / 0.
    distance = np.maximum(np.sqrt(squared[*where]), np.finfo(np.float64).tiny)
    relative = positions[:, second, env] - positions[:, first, env]
    push = CONTACT_FORCE * relative / distance * (softened * CONTACT_MARGIN)
    mutual = second < num_agents
    # Second ends first: each agent then adds its pairs in the order of mpe2's double loop.
    for coordinate in range(2):
        np.add.at(thrust[coordinate], (second[mutual], env[mutual]), push[coordinate, mutual])
        np.subtract.at(thrust[coordinate], (first, env), push[coordinate])
    positions[:, :num_agents] += velocities * TIME_STEP
    velocities *= 1 - DAMPING
    velocities += thrust * agents[1, :, None]
    speeds = np.sqrt(velocities[0] * velocities[0] + velocities[1] * velocities[1])
    agent, env = np.nonzero(speeds > agents[2, :, None])
    velocities[:, agent, env] = velocities[:, agent, env] / speeds[agent, env] * agents[2, agent]


def count_collisions(contacts: np.ndarray, depth: np.ndarray, collisions: np.ndarray) -> None:
    """Add to `collisions`, (N, B), of each agent the number of others that it overlaps; of K contacts and depths."""
    first, second, env = contacts[:, : len(depth)]
    hit = (depth > 0) & (second < len(collisions))
    np.add.at(collisions, (first[hit], env[hit]), 1)
    np.add.at(collisions, (second[hit], env[hit]), 1)


def sum_uncovered(squared: np.ndarray, uncovered: np.ndarray) -> None:
    """Write to `uncovered`, (B,), the distances of landmarks from their nearest agents, added up in order."""
    distances = np.sqrt(squared[:, len(squared) :].min(axis=0))
    uncovered[...] = np.add.accumulate(distances)[-1]


def pay_navigation(squared: np.ndarray, contacts: np.ndarray, depth: np.ndarray, rewards: np.ndarray) -> None:
    """Write navigation's rewards over zeros, (N, B): -1 to who overlaps another; to the first what is uncovered too."""
    uncovered = np.empty(rewards.shape[1])
    count_collisions(contacts, depth, rewards)
    sum_uncovered(squared, uncovered)
    rewards[...] = 0.0 - np.minimum(rewards, 1.0)
    rewards[0] -= uncovered


def pay_spread(
    squared: np.ndarray, contacts: np.ndarray, depth: np.ndarray, local_ratio: float, rewards: np.ndarray
) -> None:
    """Write spread's rewards over zeros, (N, B): minus what is uncovered and the own collisions, by `local_ratio`."""
    uncovered = np.empty(rewards.shape[1])
    count_collisions(contacts, depth, rewards)
    sum_uncovered(squared, uncovered)
    rewards[...] = -((1 - local_ratio) * uncovered) - local_ratio * rewards


def describe_coverage(positions: np.ndarray, velocities: np.ndarray, observations: np.ndarray) -> None:
    """Write the observations of a coverage task, (N, B, O) float32, with zeros in the columns that are left."""
    num_agents = len(observations)
    observations[:, :, 0:2] = velocities.transpose(1, 2, 0)
    observations[:, :, 2:4] = positions[:, :num_agents].transpose(1, 2, 0)
    for q, block in enumerate(observations):
        seen = [*range(num_agents, positions.shape[1]), *(i for i in range(num_agents) if i != q)]
        relative = positions[:, seen] - positions[:, q, None]
        block[:, 4 : 4 + 2 * len(seen)] = relative.transpose(2, 1, 0).reshape(len(block), -1)
        block[:, 4 + 2 * len(seen) :] = 0.0


def allowed(indices: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether every index, (B, W) float32, is at least 0 and below its column's size, (W,) float32."""
    return bool(((indices >= 0) & (indices < sizes)).all())
