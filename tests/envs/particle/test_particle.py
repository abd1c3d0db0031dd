"""The core of the particle worlds: bodies of every kind against mpe2's `World`, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpe2._mpe_utils.core import Agent as OriginalAgent
from mpe2._mpe_utils.core import Landmark as OriginalLandmark
from mpe2._mpe_utils.core import World

from matrpo.envs.particle.particle_env import Controls, ObservationTable, nearest_first
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import Box, Discrete

AGENTS = st.lists(
    st.builds(
        Agent,
        radius=st.floats(0.02, 0.3),
        movable=st.booleans(),
        collides=st.booleans(),
        mass=st.floats(0.5, 4.0),
        force=st.floats(0.5, 6.0),
        max_speed=st.one_of(st.just(math.inf), st.floats(0.05, 1.5)),
    ),
    min_size=1,
    max_size=5,
)
LANDMARKS = st.lists(st.builds(Landmark, radius=st.floats(0.02, 0.3), collides=st.booleans()), max_size=4)


def original_world(agents: list[Agent], landmarks: list[Landmark], positions: np.ndarray) -> Any:
    world = World()
    for body in agents:
        entity = OriginalAgent()
        entity.movable, entity.initial_mass = body.movable, body.mass
        entity.max_speed = None if math.isinf(body.max_speed) else body.max_speed
        entity.silent = True
        world.agents.append(entity)
    world.landmarks = [OriginalLandmark() for _ in landmarks]
    for entity, body, position in zip(world.entities, [*agents, *landmarks], positions.T, strict=True):
        entity.size, entity.collide = body.radius, body.collides
        entity.state.p_pos, entity.state.p_vel = position.copy(), np.zeros(2)
    return world


@settings(max_examples=60, deadline=None)
@given(agents=AGENTS, landmarks=LANDMARKS, seed=st.integers(0, 2**32))
def test_bodies_of_every_kind_move_as_in_mpe2(agents: list[Agent], landmarks: list[Landmark], seed: int) -> None:
    num_envs = 3
    draws = np.random.default_rng(seed)
    world = ParticleWorld(agents, landmarks, num_envs)
    positions = draws.uniform(-0.5, 0.5, world.positions.shape)
    world.place(positions)
    originals = [original_world(agents, landmarks, positions[:, :, b]) for b in range(num_envs)]
    for _ in range(15):
        thrust = draws.uniform(-1, 1, world.velocities.shape)
        for b, original in enumerate(originals):
            for body, entity, push in zip(agents, original.agents, thrust[:, :, b].T, strict=True):
                entity.action.u = push * body.force
            original.step()
        world.advance(thrust)
        for b, original in enumerate(originals):
            expected = [entity.state.p_pos for entity in original.entities]
            np.testing.assert_allclose(world.positions[:, :, b].T, expected, rtol=0, atol=1e-9)
            expected = [entity.state.p_vel for entity in original.agents]
            np.testing.assert_allclose(world.velocities[:, :, b].T, expected, rtol=0, atol=1e-9)


def test_collisions_are_counted_between_colliding_agents_alone() -> None:
    bodies = [Agent(0.1), Agent(0.2), Agent(0.1, collides=False), Agent(0.1)]
    world = ParticleWorld(bodies, [Landmark(0.5, collides=True)], num_envs=2)
    positions = np.zeros((2, 5, 2))
    # Environment 0: 0 and 1 overlap by less than the sum of unequal radii, 3 is apart. Environment 1: 0, 1 and 3 do.
    positions[0, :, 0] = [0.0, 0.29, 0.1, 0.6, 0.0]
    positions[0, :, 1] = [0.0, 0.15, 0.0, 0.1, 0.0]
    world.place(positions)
    counted = np.zeros((4, 2))
    world.kernels.count_collisions(world.contacts, world.depth, counted)
    assert counted.T.tolist() == [[1, 1, 0, 0], [2, 2, 0, 2]]


@settings(max_examples=50, deadline=None)
@given(observers=st.integers(1, 4), entities=st.integers(1, 20), envs=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_nearest_first_sorts_stably(observers: int, entities: int, envs: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    squared = draws.choice([0.0, 1e-12, 0.3, 0.31, 2.0, 1e6, np.inf], (observers, entities, envs))
    np.testing.assert_array_equal(nearest_first(squared), squared.argsort(axis=1, kind="stable"))


def test_spaces_follow_what_an_agent_can_do() -> None:
    moves, words = [True, False, True], [0, 3, 3]
    assert Controls(moves, words, continuous=False).spaces == (Discrete(5), Discrete(3), Discrete(15))
    assert Controls(moves, words, continuous=True).spaces == (Box(5, 0.0, 1.0), Box(3, 0.0, 1.0), Box(8, 0.0, 1.0))


def test_discrete_actions_are_a_word_and_a_move() -> None:
    controls = Controls([True, False, True], [0, 3, 3], continuous=False)
    # Left; word 2; right and word 1.
    joint_action = np.array([[1.0, 2.0, 1 * 5 + 2]], dtype=np.float32)
    assert controls.thrust(joint_action)[:, :, 0].T.tolist() == [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    assert controls.words(joint_action)[:, :, 0].tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_continuous_actions_are_clipped_weights_of_moves_and_words() -> None:
    controls = Controls([True, False, True], [0, 3, 3], continuous=True)
    joint_action = np.zeros((1, 16), dtype=np.float32)
    joint_action[0, :5] = [9.0, 0.25, 7.0, 0.5, -3.0]
    joint_action[0, 5:8] = [0.5, 2.0, -1.0]
    joint_action[0, 8:] = [0.0, 0.0, 0.0, 0.0, 0.75, 0.0, 0.25, 1.5]
    assert controls.thrust(joint_action)[:, :, 0].T.tolist() == [[0.75, -0.5], [0.0, 0.0], [0.0, 0.75]]
    assert controls.words(joint_action)[:, :, 0].tolist() == [[0.5, 1.0, 0.0], [0.0, 0.25, 1.0]]


@pytest.mark.parametrize("num_envs", [1, 16, 33, 64])
def test_a_table_gives_each_agent_its_own_rows(num_envs: int) -> None:
    table = ObservationTable([2, 2, 3], num_envs)
    assert [block.shape for block in table.blocks] == [(2, 2, num_envs), (1, 3, num_envs)]
    for block in table.blocks:
        block[...] = np.arange(block.size).reshape(block.shape)
    first, second, third = table.observations()
    np.testing.assert_array_equal(first, table.blocks[0][0].T)
    np.testing.assert_array_equal(second, table.blocks[0][1].T)
    np.testing.assert_array_equal(third, table.blocks[1][0].T)
    assert first.flags.c_contiguous
    table.blocks[0][...] = -1.0
    assert first[0, 0] == 0.0, "what was handed out stays as it is"
