"""An algorithm and the task that it learns, without a run directory; a task in which agents die and actions vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from matrpo.algorithms.shared.algorithm import Algorithm, UpdateReport
from matrpo.build import agents_are_alike, algorithm_class, state_sizes
from matrpo.envs.build import build_environment
from matrpo.envs.central import CentralEnvironment
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.settings.config import resolve
from matrpo.spaces import Discrete, TaskSpec

TINY = {
    "num_envs": 4,
    "rollout_length": 10,
    "steps": 400,
    "hidden_sizes": [4],
    "feature_normalization": False,
    "tensorboard": False,
}
GAME = {"hidden_sizes": [], "entropy_coef": 0.0, "huber_delta": None, "value_clip": None, "max_grad_norm": None}
"""Settings with which a policy of a game is a table, and a gradient what theory says."""


class Learning:
    """Rollouts and updates of an algorithm.

    Args:
        algo: its name or its class.
        task: its name or the environments themselves.
        settings: besides `TINY` and what is tuned.
    """

    def __init__(self, algo: str | type[Algorithm], task: str | VectorEnv, **settings: Any) -> None:
        name = algo if isinstance(algo, str) else "happo"
        named = {"task": task} if isinstance(task, str) else {"agents": task.spec.num_agents}
        self.config = resolve(("test", {**TINY, "algo": name, **named, **settings}))
        if isinstance(task, str):
            shared = build_environment(self.config, alike=agents_are_alike(self.config))
        else:
            shared = SharedEnvironment(task, self.config.gamma, self.config.reward_scaling, self.config.reward)
        sizes = state_sizes(shared.env, self.config.state_type)
        kind = algorithm_class(algo) if isinstance(algo, str) else algo
        self.algorithm: Any = kind(shared.spec, sizes, self.config)
        self.central = CentralEnvironment(shared, self.config.state_type)
        self.iteration = 0
        self.steps = [self.central.reset()]

    def sample(self) -> None:
        """A rollout, whose steps are kept in `steps`."""
        self.steps = self.steps[-1:]
        for _ in range(self.config.rollout_length):
            self.steps.append(self.central.step(self.algorithm.act(self.steps[-1])))
            self.algorithm.observe(self.steps[-1])

    def iterate(self) -> UpdateReport:
        self.sample()
        self.iteration += 1
        return self.algorithm.update(self.iteration)


def start_at(policy: Any, outputs: list[float]) -> None:
    """Let a policy without hidden layers begin with these outputs whatever it observes."""
    with torch.no_grad():
        policy.network.output_layer.weight.zero_()
        policy.network.output_layer.bias.copy_(torch.tensor(outputs))


def probabilities(policy: Any) -> np.ndarray:
    """What a policy of a game does: probabilities of its actions, or the mean of its continuous action."""
    with torch.no_grad():
        head = policy.own_head_of(policy.network(torch.ones(1, 1)))
    return (head.probs if hasattr(head, "probs") else head.mean)[0, 0].double().numpy()


class Duel(VectorEnv):
    """Two agents with three actions, of which two are allowed, others at each step; the second dies in some episodes.

    Every agent is paid `pay` at each step and one more for action 2. An episode ends after 4 steps; in odd environments
    the second agent is out after the second step.
    """

    spec = TaskSpec("duel", ("first", "second"), (2, 2), (Discrete(3), Discrete(3)))

    def __init__(self, num_envs: int = 4, pay: float = 0.0) -> None:
        self.num_envs = num_envs
        self._pay = pay
        self._time = 0

    def reset(self) -> list[np.ndarray]:
        self._time = 0
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        row = np.array([self._time == 0, self._time / 4], dtype=np.float32)
        return [np.tile(row, (self.num_envs, 1)) for _ in range(2)]

    def action_masks(self) -> list[np.ndarray | None]:
        masks = np.ones((2, self.num_envs, 3), dtype=bool)
        masks[0, :, self._time % 3] = False
        masks[1, :, (self._time + 1) % 3] = False
        return list(masks)

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        for q, mask in enumerate(self.action_masks()):
            assert mask is not None
            chosen = joint_action[:, q].astype(int)
            assert mask[np.arange(self.num_envs), chosen].all(), "an action that is not allowed"
        self._time += 1
        rewards = self._pay + (joint_action == 2).astype(np.float64)
        terminated = np.zeros((self.num_envs, 2), dtype=bool)
        terminated[1::2, 1] = self._time >= 2
        if self._time < 4:
            return VectorStep(self.observe(), rewards, terminated, np.zeros_like(terminated), None)
        final = self.observe()
        terminated[...] = True
        return VectorStep(self.reset(), rewards, terminated, np.zeros_like(terminated), final)
