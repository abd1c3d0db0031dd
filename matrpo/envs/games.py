"""One-step cooperative games with a common reward, whose expected return is a formula of the joint policy.

They are the examples by which the HARL papers argue for agents that update in turn and have parameters of their own
(Zhong et al., "Heterogeneous-agent reinforcement learning"; Kuba et al., "Trust region policy optimisation in
multi-agent reinforcement learning").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from matrpo.envs.family import NOTHING, Family, KnownTask, wrong_agents
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import ActionSpace, Box, Discrete, TaskSpec


class Game(ABC):
    """A cooperative game of one step.

    Attributes:
        name: after `game/`.
        action_space: every agent's.
    """

    name: str
    action_space: ActionSpace

    @abstractmethod
    def rewards(self, actions: np.ndarray) -> np.ndarray:
        """The common reward of the joint actions, (B, N) float64: (B,)."""

    @abstractmethod
    def expected_return(self, policies: Sequence[np.ndarray]) -> float:
        """The exact expected return, J, of policies that act independently of each other.

        Args:
            policies: for each agent the probabilities of its actions, (n,), or the mean of its continuous action, (1,).
        """


class Differentiable(Game):
    """r(a^1, a^2) = a^1 a^2 with real actions (Zhong et al., Fig. 1; Kuba et al., Fig. 1).

    Each agent's gradient depends on where the other stands: in the second and fourth quadrants two that step at once,
    and far enough, make both worse off. Independent actions are worth E[a^1] E[a^2], whatever their variance.
    """

    name = "differentiable"
    action_space = Box(1, -np.inf, np.inf)

    def rewards(self, actions: np.ndarray) -> np.ndarray:
        product: np.ndarray = actions.prod(axis=1)
        return product

    def expected_return(self, policies: Sequence[np.ndarray]) -> float:
        """As `Game.expected_return`: the product of the means."""
        first, second = policies
        return float(first[0] * second[0])


class Miscoordination(Game):
    """r(0, 0) = 0, r(0, 1) = r(1, 0) = 2, r(1, 1) = -1 (Zhong et al., Example 1).

    If both play 0 with a probability above 0.6, each does best to change to 1; if both do, they have the least of all.
    """

    name = "miscoordination"
    action_space = Discrete(2)
    payoffs = np.array([[0.0, 2.0], [2.0, -1.0]])

    def rewards(self, actions: np.ndarray) -> np.ndarray:
        first, second = actions.T.astype(np.intp)
        paid: np.ndarray = self.payoffs[first, second]
        return paid

    def expected_return(self, policies: Sequence[np.ndarray]) -> float:
        first, second = policies
        return float(first @ self.payoffs @ second)


class OppositeHalves(Game):
    """Reward 1 if the first half of an even number of agents plays 0 and the second 1, or conversely; else 0.

    Agents that share one policy earn at most 2 / 2^N of the optimum, 1 (Zhong et al., Example 2; Kuba et al.,
    Proposition 1).
    """

    name = "opposite-halves"
    action_space = Discrete(2)

    def rewards(self, actions: np.ndarray) -> np.ndarray:
        half = actions.shape[1] // 2
        first, second = actions[:, :half], actions[:, half:]
        apart = (first == first[:, :1]).all(axis=1) & (second == 1 - first[:, :1]).all(axis=1)
        paid: np.ndarray = apart.astype(np.float64)
        return paid

    def expected_return(self, policies: Sequence[np.ndarray]) -> float:
        """As `Game.expected_return`: the probabilities of the two joint actions that pay."""
        half = len(policies) // 2
        ones = np.array([policy[1] for policy in policies])
        zeros = 1 - ones
        return float(zeros[:half].prod() * ones[half:].prod() + ones[:half].prod() * zeros[half:].prod())


class GameEnv(VectorEnv):
    """A game of N agents in B environments. An episode terminates after its one step; agents observe the constant 1.

    Every agent is paid r: the team's return is N times that.

    Args:
        game: the rules.
        spec: `game_spec` of them.
        num_envs: B.
    """

    trusted = True

    def __init__(self, game: Game, spec: TaskSpec, num_envs: int) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._game = game
        self._plays = -1

    def number_from(self, first: int) -> None:
        """As `VectorEnv.number_from`: all environments are alike."""

    def reset(self) -> list[np.ndarray]:
        self._plays += 1
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Reward the actions and begin the next episode."""
        self._check_action(joint_action)
        if self._plays < 0:
            raise RuntimeError("reset the environment before stepping it")
        self._plays += 1
        shape = (self.num_envs, self.spec.num_agents)
        paid = self._game.rewards(joint_action.astype(np.float64))
        rewards = np.repeat(paid[:, None], self.spec.num_agents, axis=1)
        over, cut = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
        return VectorStep(self.observe(), rewards, over, cut, final_observations=self.observe())

    def observe(self) -> list[np.ndarray]:
        """The number 1: (B, 1) float32 for each agent."""
        return [np.ones((self.num_envs, 1), dtype=np.float32) for _ in self.spec.agents]

    def state_dict(self) -> dict[str, np.ndarray]:
        """The number of the current episode, from 0: (B,), the same in all environments."""
        return {"plays": np.full(self.num_envs, self._plays)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        if state.keys() != {"plays"} or state["plays"].shape != (self.num_envs,):
            raise ValueError(f"the saved state is not of a game in {self.num_envs} environments")
        self._plays = int(state["plays"][0])


def game_spec(game: Game, num_agents: int) -> TaskSpec:
    """Agents and spaces of a game.

    Raises:
        ConfigError: an odd number of agents cannot play it.
    """
    name = f"game/{game.name}"
    if num_agents % 2:
        raise wrong_agents(name, num_agents, "an even number")
    return TaskSpec(
        name=name,
        agents=tuple(f"player_{q}" for q in range(num_agents)),
        observation_sizes=(1,) * num_agents,
        action_spaces=(game.action_space,) * num_agents,
        episode_length=1,
    )


def _task(game: Game, description: str, num_agents: int, fixed: bool = True) -> KnownTask:
    describe: Callable[[int], TaskSpec] = partial(game_spec, game)
    return KnownTask(
        f"game/{game.name}",
        description,
        default_agents=num_agents,
        fixed=fixed,
        describe=describe,
        build=lambda num_agents, num_envs, _seed: GameEnv(game, describe(num_agents), num_envs),
    )


FAMILY = Family(
    pattern="game/<name>",
    description="games of one step",
    needs=NOTHING,
    tasks=(
        _task(Differentiable(), "two real actions, the reward is their product", 2),
        _task(Miscoordination(), "what is best for each alone is worst for both", 2),
        _task(OppositeHalves(), "one half of the agents must play 0, the other 1", 4, fixed=False),
    ),
)
