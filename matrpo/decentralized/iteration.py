"""One agent's iteration of Algorithm 1, independent of its driver: a loop over all agents, or the agent's process.

    act (T times) -> prepare -> begin -> [the peer's messages] -> finish -> metrics
    act           -> discard -> sit_out

The driver brings observations, messages and the time, and says when; it feeds `peer` with messages until that is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from matrpo.consensus.peer import Peer
from matrpo.decentralized.agent import Agent
from matrpo.decentralized.shared_samples import on_shared_samples
from matrpo.envs.shared import AgentStep
from matrpo.runs.metrics import agent_metrics
from matrpo.runs.phase_clock import PhaseClock


class Participant:
    """One agent with its consensus peer and its phase clock, from one iteration to the next.

    The clock gets the time of `prepare`, of local steps (`consensus`) and of `finish`; a driver whose phases hold more
    than that puts a phase of its own around them.

    Args:
        agent: its networks and samples.
        peer: its links.
        clock: measures the phases for its metrics.
    """

    def __init__(self, agent: Agent, peer: Peer, clock: PhaseClock) -> None:
        self.agent = agent
        self.peer = peer
        self.clock = clock

    def act(self, step: AgentStep, first: int = 0) -> np.ndarray:
        """Choose the next actions of all environments, or of some; arguments and result as of `Agent.act`."""
        return self.agent.act(step, first)

    def discard(self) -> None:
        """Discard the rollout of an iteration that is abandoned, or that went on without this agent."""
        self.agent.discard_rollout()

    def sit_out(self, iteration: int, now: float) -> None:
        """Take no part in an iteration, later than all before; the peer has messages that say so."""
        self.peer.sit_out(iteration, now)

    def prepare(self, step: AgentStep) -> None:
        """Close the rollout with the outcome of its last action: estimate advantages, linearise the policy."""
        with self.clock.phase("prepare"):
            self.agent.prepare_update(step)

    def begin(self, iteration: int, now: float) -> None:
        """Start the iteration's consensus, later than all before. It is over when `peer.done`."""
        config, num_agents = self.agent.config, self.agent.spec.num_agents
        local_step = self.clock.phase("consensus")(self.agent.step)
        shape = (num_agents, config.shared_samples)
        self.peer.begin(iteration, on_shared_samples(local_step, config, iteration), shape, now)

    def finish(self) -> dict[str, float]:
        """Apply the policy update that the consensus agreed on; returns the metrics of `Agent.finish_update`."""
        with self.clock.phase("finish"):
            return self.agent.finish_update()

    def metrics(
        self,
        learning: Mapping[str, float],
        traffic: Mapping[int, Mapping[str, Any]] | None = None,
        connections: Mapping[int, Mapping[str, Any]] | None = None,
        refused: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """The agent's metrics of the iteration that ended, to be taken once; arguments as of `agent_metrics`."""
        return agent_metrics(learning, self.peer, self.clock, traffic, connections, refused)

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Checkpoint state, all that the next iteration depends on; between iterations the peer has none."""
        return self.agent.state_dict()

    def load_state_dict(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: as `Agent.load_state_dict`.
        """
        self.agent.load_state_dict(arrays, meta)
