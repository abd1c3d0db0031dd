"""The loops over treasures in NumPy, the reference of `treasure_compiled.py`: see `kernels.py`.

N agents, H hunters, which come first, K banks, T treasures, E = N + T entities, B environments. Common arguments:
`positions`, (2, E, B), `velocities`, (2, N, B), and `squared`, (N, E, B), are the world's;
`holding`, (H, B), is the colour that a hunter holds or `NOTHING`, `colours`, (T, B), a treasure's, and `away`, (T, B)
booleans, whether it is away.
"""

from __future__ import annotations

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.particle.particle_env import nearest_first
from matrpo.envs.particle.treasure_hunt import AWAY, BANK_REACH, HUNTER_REACH, NOTHING, TREASURE_BOUND, TREASURE_REACH


def take_treasures(
    holding: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    positions: np.ndarray,
    squared: np.ndarray,
    taken: np.ndarray,
) -> None:
    """Each treasure in turn goes to the first empty hunter that touches it.

    Args:
        holding, away, positions, squared: changed.
        colours: of the treasures.
        taken: (B,), to which how many treasures were taken is added.
    """
    touching = squared[: len(holding), len(squared) :].transpose(1, 0, 2) < TREASURE_REACH
    treasure, hunter, env = np.nonzero(touching)
    while env.size:
        empty = (holding[hunter, env] == NOTHING) & ~away[treasure, env]
        treasure, hunter, env = treasure[empty], hunter[empty], env[empty]
        # The touch that comes first both for its treasure and for its hunter happens; its rivals do not.
        size = squared.shape[2]
        first = _first_of_each(treasure * size + env) & _first_of_each(hunter * size + env)
        gone, where = treasure[first], env[first]
        holding[hunter[first], where] = colours[gone, where]
        away[gone, where] = True
        _put(gone, where, np.full((2, len(where)), AWAY), positions, squared)
        np.add.at(taken, where, 1)


def return_treasures(
    returning: np.ndarray,
    num_banks: int,
    key: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    positions: np.ndarray,
    squared: np.ndarray,
) -> None:
    """Put treasures at new places, in new colours.

    Args:
        returning: (T, B) booleans, which of them.
        num_banks: K.
        key: (4,) uint64, of `counter_rng.uniform`: the seed, the first environment's number, the episode, and the
            first of the draws: every treasure of an environment has its own three.
        colours, away, positions, squared: changed.
    """
    treasure, env = np.nonzero(returning)
    seed, first_env, episode, first = map(int, key)
    draws = counter_rng.uniform(seed, first_env + env, np.full_like(env, episode), 3, first + 3 * treasure)
    _put(treasure, env, TREASURE_BOUND * (2 * draws[:2] - 1), positions, squared)
    colours[treasure, env] = num_banks * draws[2]
    away[treasure, env] = False


def deliver(holding: np.ndarray, squared: np.ndarray, delivered: np.ndarray) -> None:
    """Hunters that touch the bank of what they hold give it away, which is added to what banks received, (K, B)."""
    hunter, env = np.nonzero(holding != NOTHING)
    bank = holding[hunter, env]
    near = squared[hunter, len(holding) + bank, env] < BANK_REACH
    hunter, bank, env = hunter[near], bank[near], env[near]
    holding[hunter, env] = NOTHING
    np.add.at(delivered, (bank, env), 1)


def pay_treasure(
    squared: np.ndarray,
    holding: np.ndarray,
    away: np.ndarray,
    taken: np.ndarray,
    delivered: np.ndarray,
    rewards: np.ndarray,
) -> None:
    """Write the rewards of Cooperative Treasure Collection, (N, B)."""
    hunters = len(holding)
    overlaps = (squared[:hunters, :hunters] < HUNTER_REACH).sum(axis=1) - 1
    np.subtract(0.0, overlaps > 0, out=rewards[:hunters])
    nearest = np.sqrt(squared[:hunters, len(squared) :].min(axis=1))
    nearest[:, away.all(axis=0)] = np.inf
    least = np.where(holding == NOTHING, nearest, np.inf).min(axis=0)
    least[np.isinf(least)] = 0.0
    events = taken + (delivered > 0).sum(axis=0)
    rewards[hunters:] = 5.0 * events - 0.1 * least


def describe_treasure(
    first: int,
    positions: np.ndarray,
    velocities: np.ndarray,
    distances: np.ndarray,
    holding: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    block: np.ndarray,
) -> None:
    """Write the observations of Cooperative Treasure Collection.

    Args:
        first: the first of the agents that observe, all of which are hunters, or all banks.
        positions, velocities, holding, colours, away: the state.
        distances: (N, E, B) int64, the bits of `squared`.
        block: written, (agents, B, O) float32, of each agent its position, velocity, the sorted treasures, the other
            agents and, of hunters, what they hold.
    """
    rows = block.transpose(0, 2, 1)
    num_agents, num_treasures = len(distances), len(colours)
    num_banks = num_agents - len(holding)
    agents = slice(first, first + len(block))
    _describe_selves(agents, positions, velocities, rows)
    others_from = 4 + num_treasures * (2 + num_banks)
    _describe_treasures(agents, positions, distances, colours, away, num_banks, rows[:, 4:others_from])
    holding_from = others_from + 2 * (num_agents - 1)
    for q in range(len(block)):
        others = [i for i in range(num_agents) if i != first + q]
        seen = (positions[:, others] - positions[:, first + q, None]).transpose(1, 0, 2)
        rows[q, others_from:holding_from] = seen.reshape(holding_from - others_from, -1)
    if first < len(holding):
        rows[:, holding_from:] = holding[agents, None] == np.arange(num_banks)[:, None]


def describe_collect(
    first: int,
    positions: np.ndarray,
    velocities: np.ndarray,
    distances: np.ndarray,
    holding: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    block: np.ndarray,
) -> None:
    """Write the observations of mpe2's collect_treasure.

    Args:
        first: the first of the agents that observe, all of which are hunters, or all banks.
        positions, velocities, holding, colours, away: the state.
        distances: (N, E, B) int64, the bits of `squared`.
        block: written, (agents, B, O) float32, of each agent its position, velocity, if a hunter what it holds, the
            sorted other agents with velocities and two colours, one of which they accept or hold, and the sorted
            treasures.
    """
    rows = block.transpose(0, 2, 1)
    num_agents, num_envs = len(distances), distances.shape[2]
    num_banks = num_agents - len(holding)
    agents = slice(first, first + len(block))
    _describe_selves(agents, positions, velocities, rows)
    column = 4
    if first < len(holding):
        rows[:, 4 : 4 + num_banks] = holding[agents, None] == np.arange(num_banks)[:, None]
        column += num_banks
    width = 4 + 2 * num_banks
    treasures_from = column + (num_agents - 1) * width
    squared = distances[:, :num_agents].view(np.float64).copy()
    squared[np.arange(num_agents), np.arange(num_agents)] = np.inf
    order = nearest_first(squared)[agents, :-1]
    others = rows[:, column:treasures_from].reshape(len(block), num_agents - 1, width, num_envs).copy()
    observers, envs = np.arange(first, first + len(block))[:, None, None], np.arange(num_envs)
    others[:, :, 0:2] = _relative(positions, order, observers)
    others[:, :, 2:4] = velocities[:, order, envs].transpose(1, 2, 0, 3)
    # i of the bank of colour i, K + i of a hunter that holds colour i, -1 of an empty one.
    held = np.where(holding == NOTHING, -1, num_banks + holding)
    roles = np.concatenate([held, np.repeat(np.arange(num_banks)[:, None], num_envs, axis=1)])
    others[:, :, 4:] = roles[order, envs][:, :, None] == np.arange(2 * num_banks)[:, None]
    rows[:, column:treasures_from] = others.reshape(len(block), -1, num_envs)
    _describe_treasures(agents, positions, distances, colours, away, num_banks, rows[:, treasures_from:])


def _describe_selves(agents: slice, positions: np.ndarray, velocities: np.ndarray, rows: np.ndarray) -> None:
    rows[:, 0:2] = positions[:, agents].transpose(1, 0, 2)
    rows[:, 2:4] = velocities[:, agents].transpose(1, 0, 2)


def _describe_treasures(
    agents: slice,
    positions: np.ndarray,
    distances: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    num_banks: int,
    rows: np.ndarray,
) -> None:
    """The treasures by their distance from each agent, those that are away last and all zeros."""
    num_agents, num_envs = len(distances), distances.shape[2]
    order = nearest_first(distances[agents, num_agents:].view(np.float64))
    observers, envs = np.arange(agents.start, agents.stop)[:, None, None], np.arange(num_envs)
    places = _relative(positions, num_agents + order, observers)
    shown = np.where(away, NOTHING, colours)[order, envs]
    seen = np.concatenate([places, shown[:, :, None] == np.arange(num_banks)[:, None]], axis=2)
    rows[...] = np.where((shown != NOTHING)[:, :, None], seen, 0.0).reshape(rows.shape)


def _relative(positions: np.ndarray, entities: np.ndarray, observers: np.ndarray) -> np.ndarray:
    """Positions of entities, (A, M, B) ids, relative to their A observers: (A, M, 2, B)."""
    envs = np.arange(positions.shape[2])
    relative: np.ndarray = positions[:, entities, envs] - positions[:, observers, envs]
    return relative.transpose(1, 2, 0, 3)


def _put(
    treasure: np.ndarray,
    env: np.ndarray,
    places: np.ndarray,
    positions: np.ndarray,
    squared: np.ndarray,
) -> None:
    """Put M treasures, (M,) ids and environments, at `places`, (2, M)."""
    num_agents = len(squared)
    positions[:, num_agents + treasure, env] = places
    seen = places[:, None] - positions[:, :num_agents, env]
    squared[:, num_agents + treasure, env] = seen[0] * seen[0] + seen[1] * seen[1]


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Where a value appears for the first time: (M,) bool."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
