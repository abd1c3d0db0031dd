"""The loops over treasures, compiled: see `kernels.py`. `treasure_numpy.py` says what each function does."""

from __future__ import annotations

import math

import numpy as np

from matrpo.envs.particle.compiling import compiled, inlined
from matrpo.envs.particle.treasure_hunt import AWAY, BANK_REACH, HUNTER_REACH, NOTHING, TREASURE_BOUND, TREASURE_REACH

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
_FARTHEST = np.int64(2**63 - 1)
_STATE = "f8[:,:,::1], f8[:,:,::1]"
_SEEN = "f8[:,:,::1], f8[:,:,::1], i8[:,:,::1], i8[:,::1], i8[:,::1], b1[:,::1], f4[:,:,::1]"


@inlined
def _put(
    treasure: int,
    b: int,
    x: float,
    y: float,
    positions: np.ndarray,
    squared: np.ndarray,
) -> None:
    entity = len(squared) + treasure
    positions[0, entity, b], positions[1, entity, b] = x, y
    for q in range(len(squared)):
        dx, dy = x - positions[0, q, b], y - positions[1, q, b]
        squared[q, entity, b] = dx * dx + dy * dy


@compiled(f"void(i8[:,::1], i8[:,::1], b1[:,::1], {_STATE}, i8[::1])")
def take_treasures(
    holding: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    positions: np.ndarray,
    squared: np.ndarray,
    taken: np.ndarray,
) -> None:
    """See `treasure_numpy.take_treasures`."""
    num_agents = len(squared)
    for treasure in range(len(colours)):
        for hunter in range(len(holding)):
            for b in range(len(taken)):
                touching = squared[hunter, num_agents + treasure, b] < TREASURE_REACH
                if touching and holding[hunter, b] == NOTHING and not away[treasure, b]:
                    holding[hunter, b] = colours[treasure, b]
                    away[treasure, b] = True
                    _put(treasure, b, AWAY, AWAY, positions, squared)
                    taken[b] += 1


@inlined
def _mix(word: np.uint64) -> np.uint64:
    word = (word ^ (word >> np.uint64(30))) * _FIRST_FACTOR
    word = (word ^ (word >> np.uint64(27))) * _SECOND_FACTOR
    return word ^ (word >> np.uint64(31))


@inlined
def _uniform(key: np.uint64, draw: np.uint64) -> float:
    word = _mix(key + draw * _GOLDEN)
    return np.float64(word >> np.uint64(11)) * 2.0**-53


@compiled(f"void(b1[:,::1], i8, u8[::1], i8[:,::1], b1[:,::1], {_STATE})")
def return_treasures(
    returning: np.ndarray,
    num_banks: int,
    key: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    positions: np.ndarray,
    squared: np.ndarray,
) -> None:
    """See `treasure_numpy.return_treasures`."""
    seed, first_env, episode, first = key
    one = np.uint64(1)
    for b in range(returning.shape[1]):
        of_env = _mix(_mix(seed + _GOLDEN) + _GOLDEN * (first_env + np.uint64(b) + one))
        of_episode = _mix(of_env + _GOLDEN * (episode + one))
        for treasure in range(len(returning)):
            if returning[treasure, b]:
                # Draws are counted from 1.
                draw = first + np.uint64(3 * treasure + 1)
                x = TREASURE_BOUND * (2 * _uniform(of_episode, draw) - 1)
                y = TREASURE_BOUND * (2 * _uniform(of_episode, draw + one) - 1)
                _put(treasure, b, x, y, positions, squared)
                colours[treasure, b] = int(num_banks * _uniform(of_episode, draw + one + one))
                away[treasure, b] = False


@compiled("void(i8[:,::1], f8[:,:,::1], i8[:,::1])")
def deliver(holding: np.ndarray, squared: np.ndarray, delivered: np.ndarray) -> None:
    """See `treasure_numpy.deliver`."""
    for hunter in range(len(holding)):
        for b in range(holding.shape[1]):
            bank = holding[hunter, b]
            if bank != NOTHING and squared[hunter, len(holding) + bank, b] < BANK_REACH:
                holding[hunter, b] = NOTHING
                delivered[bank, b] += 1


@compiled("void(f8[:,:,::1], i8[:,::1], b1[:,::1], i8[::1], i8[:,::1], f8[:,::1])")
def pay_treasure(
    squared: np.ndarray,
    holding: np.ndarray,
    away: np.ndarray,
    taken: np.ndarray,
    delivered: np.ndarray,
    rewards: np.ndarray,
) -> None:
    """See `treasure_numpy.pay_treasure`."""
    num_agents, hunters, num_envs = len(squared), len(holding), squared.shape[2]
    for b in range(num_envs):
        least = math.inf
        for hunter in range(hunters):
            overlaps = 0
            for other in range(hunters):
                overlaps += squared[hunter, other, b] < HUNTER_REACH
            rewards[hunter, b] = -1.0 if overlaps > 1 else 0.0
            if holding[hunter, b] == NOTHING:
                for treasure in range(len(away)):
                    distance = math.sqrt(squared[hunter, num_agents + treasure, b])
                    if not (away[treasure, b] or least <= distance or least != least):
                        least = distance
        events = taken[b]
        for bank in range(len(delivered)):
            events += delivered[bank, b] > 0
        reward = 5.0 * events - 0.1 * (0.0 if least == math.inf else least)
        for bank in range(hunters, num_agents):
            rewards[bank, b] = reward


@inlined
def _sort(keys: np.ndarray) -> None:
    """Replace the bits of distances by the ids of the nearest, the next, and so on: see `nearest_first`."""
    size, id_bits = len(keys), 0
    while id_bits < size - 1:
        id_bits = 2 * id_bits + 1
    for i in range(size):
        key = keys[i] & ~id_bits | i
        place = i
        while place > 0 and keys[place - 1] > key:
            keys[place] = keys[place - 1]
            place -= 1
        keys[place] = key
    for i in range(size):
        keys[i] &= id_bits


@inlined
def _write_one_hot(block: np.ndarray, k: int, b: int, column: int, size: int, colour: int) -> None:
    for choice in range(size):
        block[k, b, column + choice] = 0.0
    if colour != NOTHING:
        block[k, b, column + colour] = 1.0


@inlined
def _write_place(block: np.ndarray, k: int, column: int, q: int, b: int, positions: np.ndarray, entity: int) -> None:
    block[k, b, column] = positions[0, entity, b] - positions[0, q, b]
    block[k, b, column + 1] = positions[1, entity, b] - positions[1, q, b]


@inlined
def _write_treasures(
    block: np.ndarray,
    k: int,
    column: int,
    q: int,
    b: int,
    positions: np.ndarray,
    distances: np.ndarray,
    colours: np.ndarray,
    away: np.ndarray,
    num_banks: int,
    order: np.ndarray,
) -> None:
    num_agents, num_treasures = len(distances), len(colours)
    for treasure in range(num_treasures):
        order[treasure] = distances[q, num_agents + treasure, b]
    _sort(order)
    for place in range(num_treasures):
        treasure = order[place]
        if away[treasure, b]:
            block[k, b, column] = block[k, b, column + 1] = 0.0
            _write_one_hot(block, k, b, column + 2, num_banks, NOTHING)
        else:
            _write_place(block, k, column, q, b, positions, num_agents + treasure)
            _write_one_hot(block, k, b, column + 2, num_banks, colours[treasure, b])
        column += 2 + num_banks


@compiled(f"void(i8, {_SEEN})")
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
    """See `treasure_numpy.describe_treasure`."""
    num_agents, num_treasures = len(distances), len(colours)
    num_banks = num_agents - len(holding)
    order = np.empty(num_treasures, dtype=np.int64)
    for k in range(len(block)):
        q = first + k
        for b in range(block.shape[1]):
            block[k, b, 0], block[k, b, 1] = positions[0, q, b], positions[1, q, b]
            block[k, b, 2], block[k, b, 3] = velocities[0, q, b], velocities[1, q, b]
            _write_treasures(block, k, 4, q, b, positions, distances, colours, away, num_banks, order)
            column = 4 + num_treasures * (2 + num_banks)
            for i in range(num_agents):
                if i != q:
                    _write_place(block, k, column, q, b, positions, i)
                    column += 2
            if q < len(holding):
                _write_one_hot(block, k, b, column, num_banks, holding[q, b])


@compiled(f"void(i8, {_SEEN})")
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
    """See `treasure_numpy.describe_collect`."""
    num_agents, num_hunters, num_treasures = len(distances), len(holding), len(colours)
    num_banks = num_agents - num_hunters
    agents, treasures = np.empty(num_agents, dtype=np.int64), np.empty(num_treasures, dtype=np.int64)
    for k in range(len(block)):
        q = first + k
        for b in range(block.shape[1]):
            block[k, b, 0], block[k, b, 1] = positions[0, q, b], positions[1, q, b]
            block[k, b, 2], block[k, b, 3] = velocities[0, q, b], velocities[1, q, b]
            column = 4
            if q < num_hunters:
                _write_one_hot(block, k, b, column, num_banks, holding[q, b])
                column += num_banks
            for i in range(num_agents):
                agents[i] = distances[q, i, b] if i != q else _FARTHEST
            _sort(agents)
            for place in range(num_agents - 1):
                i = agents[place]
                _write_place(block, k, column, q, b, positions, i)
                block[k, b, column + 2], block[k, b, column + 3] = velocities[0, i, b], velocities[1, i, b]
                _write_one_hot(block, k, b, column + 4, num_banks, i - num_hunters if i >= num_hunters else NOTHING)
                column += 4 + num_banks
                _write_one_hot(block, k, b, column, num_banks, holding[i, b] if i < num_hunters else NOTHING)
                column += num_banks
            _write_treasures(block, k, column, q, b, positions, distances, colours, away, num_banks, treasures)
