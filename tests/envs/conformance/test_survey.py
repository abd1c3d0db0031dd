"""What the survey finds in environments that do one thing each."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from matrpo.envs.conformance.survey import survey

SOURCE = '''
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

class Plain(ParallelEnv):
    """Two agents, episodes of five steps, cut off by a time limit; what they see is drawn by the seed."""
    metadata = {"name": "plain", "render_modes": []}
    possible_agents = ["a", "b"]
    seen = Box(0.0, 1.0, (2,), np.float64)

    def observation_space(self, agent): return self.seen
    def action_space(self, agent): return Discrete(3)

    def reset(self, seed=None, options=None):
        self.random, self.time = np.random.default_rng(seed), 0
        self.agents = list(self.possible_agents)
        return self.told(), self.infos()

    def told(self): return {a: self.random.random(2) for a in self.possible_agents}
    def infos(self): return {}
    def reward(self, agent): return 1.0
    def ends(self, agent): return False, self.time == 5

    def step(self, actions):
        self.time += 1
        acting = self.agents
        ends = {a: self.ends(a) for a in self.possible_agents}
        self.agents = [a for a in acting if not any(ends[a])]
        rewards = {a: self.reward(a) for a in self.possible_agents}
        return self.told(), rewards, {a: ends[a][0] for a in acting}, {a: ends[a][1] for a in acting}, self.infos()

class Masked(Plain):
    def infos(self): return {a: {"action_mask": np.array([1, 0, 0]) * (self.time % 2)} for a in self.possible_agents}

class Dies(Plain):
    def ends(self, agent): return agent == "a" and self.time == 2, self.time == 5

class Joins(Plain):
    def reset(self, seed=None, options=None):
        told = super().reset(seed)
        self.agents = ["a"]
        return told
    def step(self, actions):
        result = super().step(actions)
        if self.time == 2:
            self.agents = [*self.agents, "b"]
        return result

class Terminates(Plain):
    def ends(self, agent): return self.time == 5, False

class Endless(Plain):
    def ends(self, agent): return False, False

class Outside(Plain):
    def told(self): return {a: 300.0 * self.random.random(2) for a in self.possible_agents}

class Unpaid(Plain):
    def reward(self, agent): return 0.0

class Unseeded(Plain):
    def told(self): return {a: np.random.default_rng().random(2) for a in self.possible_agents}

class Entangled(Plain):
    common = np.random.default_rng(0)
    def reset(self, seed=None, options=None):
        Entangled.common = np.random.default_rng(seed)
        return super().reset(seed)
    def told(self): return {a: self.common.random(2) for a in self.possible_agents}

class Nan(Plain):
    def reward(self, agent): return np.nan if self.time == 4 else 1.0

class Stranger(Plain):
    def step(self, actions):
        result = super().step(actions)
        if self.time == 4:
            self.agents = [*self.agents, "c"]
        return result
''' + "".join(
    f"\ndef {name.lower()}(num_agents, num_envs, seed): return {name}\n"
    for name in (
        *("Plain", "Masked", "Dies", "Joins", "Terminates", "Endless", "Outside"),
        *("Unpaid", "Unseeded", "Entangled", "Nan", "Stranger"),
    )
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "tasks.py"
    path.write_text(SOURCE)
    return path


@functools.cache
def findings(file: Path, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "warn": [], "bad": []}
    for verdict, text in survey(f"{file}:{name}", None, steps=60):
        found[verdict].append(text)
    return found


def test_a_task_without_peculiarities_is_described(file: Path) -> None:
    found = findings(file, "plain")
    assert (found["warn"], found["bad"]) == ([], [])
    assert found["ok"][:2] == ["2 agents: a, b", "a to b: observes 2 numbers, acts in Discrete(3)"]
    assert found["ok"][2].endswith("(float64, learnt from as float32)")
    assert "12 episodes of 5 steps: 0 ended by termination, 12 by truncation" in found["ok"]
    assert "rewards from 1 to 1, the same for all" in found["ok"]
    assert "the same seed gives the same episodes" in found["ok"]
    assert found["ok"][-1].startswith("one environment takes ")


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("masked", "ok", "action masks in info rule out 87% of the choices: none of these is done"),
        ("masked", "ok", "masks that allow nothing (61%): the agent does action 0, and that sample is not learnt from"),
        ("dies", "ok", "agents leave before the others, 12 times: they see zeros and are paid nothing then"),
        ("dies", "warn", "rewards are paid to agents that are not in the episode, 36 times: they are dropped"),
        ("joins", "ok", "agents join in mid-episode, 12 times: their memory begins anew"),
        ("terminates", "warn", "episodes of 5 steps end by termination: if that is a time limit, it should be a"),
        ("endless", "warn", "no episode ended in 60 random steps: set episode_length"),
        ("outside", "warn", "large observations"),
        ("outside", "warn", "an observation of 'a' is not in its space: values from "),
        ("unpaid", "warn", "no reward but 0 in 60 random steps"),
        ("unseeded", "warn", "the same seed and actions give something else from step 0 on"),
        ("entangled", "warn", "beside a second environment the first does something else from step "),
        ("nan", "bad", "step 4 of its episode: the reward of agent 'a' is nan; expected a finite number"),
        ("stranger", "bad", "a name in `agents` is 'c'; expected one of possible_agents, 'a', 'b'"),
    ],
)
def test_a_peculiarity_is_a_finding(name: str, verdict: str, words: str, file: Path) -> None:
    assert any(words in text for text in findings(file, name)[verdict])


def test_our_own_tasks_have_no_warnings() -> None:
    found = list(survey("navigation", 3, steps=150))
    assert {verdict for verdict, _ in found} == {"ok"}
    assert any("1 episodes of 100 steps: 0 ended by termination" in text for _, text in found)
