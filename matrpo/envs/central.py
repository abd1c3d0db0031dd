"""The shared environment for centralised training: all agents' steps, the global state and the team reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matrpo.envs.shared import AgentStep, SharedEnvironment, team_rewards


@dataclass(frozen=True)
class CentralStep:
    """One step of the N agents in B environments, as a centralised trainer receives it.

    Attributes:
        agents: what each agent receives.
        states: what centralised critics see, as if each were an agent: the state in the place of an observation, the
            sum of all rewards, and the end of the episode for everyone. One for all agents, or one for each.
        alive: (B, N) booleans, agents that are in the episode and may act: what the others do changes nothing.
        survived: (B, N) booleans, agents that were alive before and that the task did not end for with this step.
    """

    agents: list[AgentStep]
    states: list[AgentStep]
    alive: np.ndarray
    survived: np.ndarray


class CentralEnvironment:
    """Adds the state and the team's reward to the steps of a shared environment.

    Args:
        shared: the environment.
        state_type: `ep`, the environment's state for all agents alike, or `fp`, each agent's own view of it.
    """

    def __init__(self, shared: SharedEnvironment, state_type: str) -> None:
        self.shared = shared
        self.spec = shared.spec
        self._per_agent = state_type == "fp"
        self._alive = np.ones((shared.env.num_envs, shared.spec.num_agents), dtype=bool)

    def reset(self) -> CentralStep:
        """Begin new episodes, as `SharedEnvironment.reset` does."""
        return self._initial(self.shared.reset())

    def step(self, joint_action: np.ndarray) -> CentralStep:
        """Advance all environments; see `SharedEnvironment.step`."""
        before = self._alive
        agents = self.shared.step(joint_action)
        last = self.shared.last
        assert last is not None
        ended, truncated = last.ended, last.cut
        self._note_who_is_alive()
        final_observations = last.final_observations if ended.any() else None
        final = last.final_state
        if final is None and final_observations is not None:
            final = np.concatenate(final_observations, axis=1)
        views = self._states(last.observations)
        finals: Sequence[np.ndarray | None] = [None] * len(views)
        if final is not None and final_observations is not None:
            finals = self._views(final, final_observations)
        reward = team_rewards(last.rewards).astype(np.float32)
        states = [
            AgentStep(view, reward, agents[0].reward_scale, ended & ~truncated, truncated, end, joint_action, None)
            for view, end in zip(views, finals, strict=True)
        ]
        return CentralStep(agents, states, self._alive, before & ~last.terminated)

    def resume(self, state: dict[str, np.ndarray]) -> CentralStep:
        """Continue from a state of the shared environment, as `SharedEnvironment.resume` does."""
        return self._initial(self.shared.resume(state))

    def _initial(self, agents: list[AgentStep]) -> CentralStep:
        self._note_who_is_alive()
        first = agents[0]
        none = np.zeros_like(first.terminated)
        views = self._states([agent.observation for agent in agents])
        states = [
            AgentStep(view, first.reward, first.reward_scale, none, first.truncated, None, first.joint_action, None)
            for view in views
        ]
        return CentralStep(agents, states, self._alive, self._alive)

    def _note_who_is_alive(self) -> None:
        """Of those who are present, all but those whose masks allow nothing now."""
        self._alive = self.shared.present & ~self.shared.waiting

    def _states(self, observations: list[np.ndarray]) -> list[np.ndarray]:
        return self._views(self.shared.env.state(), observations)

    def _views(self, state: np.ndarray, observations: list[np.ndarray]) -> list[np.ndarray]:
        return self.shared.env.agent_states(state, observations) if self._per_agent else [state]
