"""Every batched particle task against mpe2 itself, step for step: same initial states, same actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpe2 import collect_treasure_v1, simple_reference_v3, simple_speaker_listener_v4, simple_spread_v3

from matrpo.envs.particle.collect_treasure import CollectTreasureEnv
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.particle.particle_env import ParticleEnv
from matrpo.envs.particle.simple_reference import SimpleReferenceEnv
from matrpo.envs.particle.simple_speaker_listener import SimpleSpeakerListenerEnv
from matrpo.envs.particle.simple_spread import SimpleSpreadEnv
from matrpo.envs.particle.treasure import TreasureEnv
from matrpo.spaces import Box

TOLERANCE = 1e-6
State = dict[str, np.ndarray]


class ReplayedDraws:
    """Stands in for mpe2's generator: a treasure reappears where, and in the colour in which, the batch's did."""

    def __init__(self) -> None:
        self.places: list[np.ndarray] = []
        self.colours: list[int] = []

    def uniform(self, low: float | None = None, high: float = 0.0, size: int = 0) -> Any:
        if low is None:
            return 0.5
        place = self.places.pop(0)
        assert len(place) == size
        assert (low <= place).all()
        assert (place <= high).all()
        return place

    def integers(self, low: int, high: int) -> int:
        colour = self.colours.pop(0)
        assert low <= colour < high
        return colour


class Original:
    """One mpe2 environment that follows environment `index` of a batch."""

    def __init__(self, make: Callable[..., Any], continuous: bool, length: int, index: int) -> None:
        self.env = make(continuous_actions=continuous, max_cycles=length)
        self.world = self.env.unwrapped.world
        self.continuous = continuous
        self.index = index

    def begin(self, state: State) -> None:
        """Start an episode in the batch's state."""
        self.env.reset(seed=0)
        b = self.index
        for entity, position in zip(self.world.entities, state["positions"][:, :, b].T, strict=True):
            entity.state.p_pos = position.copy()
        for agent, velocity in zip(self.world.agents, state["velocities"][:, :, b].T, strict=True):
            agent.state.p_vel = velocity.copy()
        goals = np.atleast_2d(state.get("goals", state.get("goal", np.zeros((0, b + 1)))))
        for agent, goal in zip(self.world.agents, goals[:, b], strict=False):
            agent.goal_b = self.world.landmarks[int(goal)]
        if "colours" in state:
            self.draws = self.world._np_random = ReplayedDraws()
            for treasure, colour in zip(self.world.landmarks, state["colours"][:, b], strict=True):
                treasure.type = int(colour)

    def step(self, parts: list[np.ndarray], after: State) -> tuple[Any, ...]:
        """Act; `after` is the batch's state afterwards, which tells where treasures reappear."""
        if "colours" in after:
            for k, treasure in enumerate(self.world.landmarks):
                if not treasure.alive:
                    self.draws.places.append(after["positions"][:, len(self.world.agents) + k, self.index])
                    self.draws.colours.append(int(after["colours"][k, self.index]))
        names = self.env.possible_agents
        actions = {n: part if self.continuous else int(part[0]) for n, part in zip(names, parts, strict=True)}
        return tuple(self.env.step(actions))

    def check_state(self, state: State) -> None:
        b = self.index
        agents = self.world.agents
        assert_close(state["positions"][:, :, b].T, [entity.state.p_pos for entity in self.world.entities])
        assert_close(state["velocities"][:, :, b].T, [agent.state.p_vel for agent in agents])
        if "colours" in state:
            hunters = [agent for agent in agents if agent.collector]
            assert [-1 if h.holding is None else h.holding for h in hunters] == state["holding"][:, b].tolist()
            assert [t.type for t in self.world.landmarks] == state["colours"][:, b].tolist()
            assert [not t.alive for t in self.world.landmarks] == state["away"][:, b].tolist()
        words = state.get("words", state.get("word"))
        if words is not None:
            assert_close(words[:, :, b], [agent.state.c for agent in agents if not agent.silent])


def assert_close(ours: np.ndarray, theirs: Any) -> None:
    expected = np.array(theirs)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TOLERANCE


def towards(direction: np.ndarray, space: Any, draws: np.random.Generator) -> np.ndarray:
    """An agent's actions, (B, W), towards `direction`, (2, B), two times out of three and random otherwise."""
    x, y = direction
    size = len(x)
    straight = draws.random(size) < 2 / 3
    if isinstance(space, Box):
        actions = draws.uniform(-0.2, 1.2, (size, space.size))
        if space.size >= 5:
            heading = np.stack([0 * x, -x, x, -y, y], axis=1)
            actions[:, :5] = np.where(straight[:, None], 3 * heading, actions[:, :5])
        return actions
    heading = np.where(np.abs(x) > np.abs(y), np.where(x > 0, 2, 1), np.where(y > 0, 4, 3))
    actions = draws.integers(0, space.n, size)
    if space.n % 5 == 0:
        actions = np.where(straight, heading + actions // 5 * 5, actions)
    return actions[:, None]


def choose_actions(env: ParticleEnv, state: State, draws: np.random.Generator) -> np.ndarray:
    """Joint actions under which much happens: agents crowd, hunters hunt and deliver."""
    positions = state["positions"]
    n = env.spec.num_agents
    targets = np.zeros((2, n, env.num_envs))
    if "holding" in state:
        envs = np.arange(env.num_envs)
        hunters = len(state["holding"])
        for j in range(hunters):
            gaps = positions[:, n:] - positions[:, j : j + 1]
            nearest = positions[:, n + (gaps**2).sum(axis=0).argmin(axis=0), envs]
            bank = positions[:, np.maximum(state["holding"][j], 0) + hunters, envs]
            targets[:, j] = np.where(state["holding"][j] < 0, nearest, bank)
    columns = [towards(targets[:, q] - positions[:, q], space, draws) for q, space in enumerate(env.spec.action_spaces)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def banks_of(num_agents: int) -> dict[str, int]:
    banks = {8: 2, 12: 3}[num_agents]
    return {"num_collectors": num_agents - banks, "num_deposits": banks, "num_treasures": num_agents - banks}


def spread(num_agents: int) -> Callable[..., Any]:
    return lambda **options: simple_spread_v3.parallel_env(N=num_agents, **options)


def collect(num_agents: int) -> Callable[..., Any]:
    return lambda **options: collect_treasure_v1.parallel_env(**banks_of(num_agents), **options)


Follow = Callable[[Original, np.ndarray, State, State], tuple[list[np.ndarray], list[float]]]
"""Steps an mpe2 environment: (original, joint action, states before and after) to observations and rewards."""


def as_mpe2(original: Original, parts: list[np.ndarray], _: State, after: State) -> Any:
    """mpe2's own observations and rewards; the state that it shows is its agents' observations side by side."""
    observations, rewards, *_rest = original.step(parts, after)
    names = original.env.possible_agents
    seen = [observations[name] for name in names]
    np.testing.assert_array_equal(np.concatenate(seen), original.env.state())
    return seen, [rewards[name] for name in names]


def distance(a: Any, b: Any) -> float:
    return float(np.hypot(*(a.state.p_pos - b.state.p_pos)))


def overlap(a: Any, b: Any) -> bool:
    return distance(a, b) < a.size + b.size


def as_table_1(original: Original, parts: list[np.ndarray], _: State, after: State) -> Any:
    """The paper's Cooperative Navigation on mpe2's physics."""
    original.step(parts, after)
    agents, landmarks = original.world.agents, original.world.landmarks
    observations, rewards = [], []
    for agent in agents:
        seen = [agent.state.p_vel, agent.state.p_pos]
        for landmark in landmarks:
            seen.append(landmark.state.p_pos - agent.state.p_pos)
        reward = 0.0
        for other in agents:
            if other is not agent:
                seen.append(other.state.p_pos - agent.state.p_pos)
                if overlap(agent, other):
                    reward = -1.0
        observations.append(np.concatenate(seen))
        rewards.append(reward)
    for landmark in landmarks:
        rewards[0] -= min(distance(agent, landmark) for agent in agents)
    return observations, rewards


def as_table_2(original: Original, parts: list[np.ndarray], before: State, after: State) -> Any:
    """The paper's Cooperative Treasure Collection on mpe2's physics, its pick-ups and its deliveries."""
    world, b = original.world, original.index
    alive_before = [treasure.alive for treasure in world.landmarks]
    colours_before = [treasure.type for treasure in world.landmarks]
    original.step(parts, after)
    hunters = [agent for agent in world.agents if agent.collector]
    banks = [agent for agent in world.agents if not agent.collector]
    collected = [
        colour
        for treasure, alive, colour in zip(world.landmarks, alive_before, colours_before, strict=True)
        if alive and not treasure.alive
    ]
    events = len(collected)
    for i in range(len(banks)):
        had = sum(held == i for held in before["holding"][:, b]) + sum(colour == i for colour in collected)
        if had > sum(hunter.holding == i for hunter in hunters):
            events += 1
    distances = [
        distance(hunter, treasure)
        for hunter in hunters
        for treasure in world.landmarks
        if hunter.holding is None and treasure.alive
    ]
    bank_reward = 5 * events - 0.1 * min(distances, default=0.0)
    rewards = []
    for agent in world.agents:
        hit = any(overlap(agent, other) for other in hunters if other is not agent)
        rewards.append((-1.0 if hit else 0.0) if agent.collector else bank_reward)
    return [table_2_observation(agent, world, len(banks)) for agent in world.agents], rewards


def table_2_observation(agent: Any, world: Any, colours: int) -> np.ndarray:
    seen = [agent.state.p_pos, agent.state.p_vel]
    treasures = [treasure for treasure in world.landmarks if treasure.alive]
    for treasure in sorted(treasures, key=lambda treasure: distance(agent, treasure)):
        seen += [treasure.state.p_pos - agent.state.p_pos, np.eye(colours)[treasure.type]]
    seen.append(np.zeros((len(world.landmarks) - len(treasures)) * (2 + colours)))
    for other in world.agents:
        if other is not agent:
            seen.append(other.state.p_pos - agent.state.p_pos)
    if agent.collector:
        seen.append(np.zeros(colours) if agent.holding is None else np.eye(colours)[agent.holding])
    return np.concatenate(seen)


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, the maker of the mpe2 environment with its world, and what to compare with.

    `num_envs`: with two episodes each, in both action spaces and over the task's cases, 200 episodes or more.
    """

    name: str
    make: Callable[..., ParticleEnv]
    num_agents: int
    make_original: Callable[..., Any]
    follow: Follow
    num_envs: int


def of_two(make: Callable[..., ParticleEnv]) -> Callable[..., ParticleEnv]:
    """The maker of a task with two agents, called like the others."""
    return lambda _, *arguments: make(*arguments)


def _label(case: Case) -> str:
    return f"{case.name}-{case.num_agents}"


CASES = [
    *(Case("navigation", NavigationEnv, n, spread(n), as_table_1, 17) for n in (3, 6, 12)),
    *(Case("simple_spread", SimpleSpreadEnv, n, spread(n), as_mpe2, 17) for n in (3, 6, 12)),
    *(Case("treasure", TreasureEnv, n, collect(n), as_table_2, 25) for n in (8, 12)),
    *(Case("collect_treasure", CollectTreasureEnv, n, collect(n), as_mpe2, 25) for n in (8, 12)),
    Case("reference", of_two(SimpleReferenceEnv), 2, simple_reference_v3.parallel_env, as_mpe2, 50),
    Case("speaker_listener", of_two(SimpleSpeakerListenerEnv), 2, simple_speaker_listener_v4.parallel_env, as_mpe2, 50),
]
few_agents = pytest.mark.parametrize("case", [case for case in CASES if case.num_agents < 12], ids=_label)
every_case = pytest.mark.parametrize("case", CASES, ids=_label)
both_spaces = pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])


def compare(case: Case, continuous: bool, num_envs: int, max_steps: int | None = None) -> None:
    """Follow two episodes of `num_envs` environments, at most `max_steps` in all, and see that enough happened."""
    env = case.make(case.num_agents, num_envs, 7, continuous)
    # A second batch that never ends an episode shows the state that one ends in.
    endless = case.make(case.num_agents, num_envs, 7, continuous)
    endless.spec = dataclasses.replace(endless.spec, episode_length=None)
    length = env.spec.episode_length
    assert length is not None
    originals = [Original(case.make_original, continuous, length + 1, b) for b in range(num_envs)]
    draws = np.random.default_rng(case.num_agents)
    env.reset()
    total = {"steps": 0.0, "collisions": 0.0, "exchanges": 0.0}
    for t in range(min(2 * length, max_steps or 2 * length)):
        before = env.state_dict()
        if t % length == 0:
            for original in originals:
                original.begin(before)
        joint_action = choose_actions(env, before, draws)
        endless.load_state_dict(before)
        endless.step(joint_action)
        step, after = env.step(joint_action), endless.state_dict()
        assert step.ended.all() == ((t + 1) % length == 0)
        observations = step.final_observations or step.observations
        for b, original in enumerate(originals):
            parts = [joint_action[b, part] for part in env.spec.action_slices]
            seen, rewards = case.follow(original, parts, before, after)
            original.check_state(after)
            assert_close(step.rewards[b], rewards)
            for ours, theirs in zip(observations, seen, strict=True):
                assert_close(ours[b], theirs)
        total["steps"] += num_envs
        total["collisions"] += float((endless._world.depth > 0).sum())
        if "holding" in after:
            total["exchanges"] += float((before["holding"] != after["holding"]).sum())
    if case.name in ("navigation", "simple_spread"):
        assert total["collisions"] > 0.1 * total["steps"]
    if "treasure" in case.name:
        assert total["exchanges"] > 0.1 * total["steps"]


@both_spaces
@few_agents
def test_every_step_equals_mpe2(case: Case, continuous: bool) -> None:
    compare(case, continuous, num_envs=1, max_steps=110)


@pytest.mark.slow
@both_spaces
@every_case
def test_200_episodes_of_each_task_equal_mpe2(case: Case, continuous: bool) -> None:
    compare(case, continuous, case.num_envs)
