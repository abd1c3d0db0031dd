"""One agent's iteration of Algorithm 1, independent of its driver: a loop over all agents, or the agent's process.

    agent.act (T times) -> prepare -> begin -> [the peer's messages] -> finish -> metrics
    agent.act           -> agent.discard_rollout -> peer.sit_out

The driver brings observations, messages and the time, and says when; it feeds `peer` with messages until that is done.
Between iterations the peer remembers nothing that the next depends on: `agent.state_dict` is all of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from matrpo.consensus.peer import Peer
from matrpo.decentralized.actor_critic import ActorCritic
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import AgentStep
from matrpo.errors import diverged
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

    def __init__(self, agent: ActorCritic, peer: Peer, clock: PhaseClock) -> None:
        self.agent = agent
        self.peer = peer
        self.clock = clock

    def prepare(self, step: AgentStep, iteration: int) -> None:
        """Close an iteration's rollout with the outcome of its last action, and compute what the local steps need."""
        with self.clock.phase("prepare"):
            self.agent.prepare_update(step, iteration)

    def begin(self, iteration: int, now: float) -> None:
        """Start the iteration's consensus, later than all before. It is over when `peer.done`.

        A local step that is not finite, which no neighbour would take, raises a `TaskError` from where it is made.
        """
        agent, config = self.agent, self.agent.config
        shared = SharedSamples.of(config, iteration)

        def local_step(term: np.ndarray) -> np.ndarray:
            with self.clock.phase("consensus"):
                ratios = agent.step(term, shared)
            if not np.isfinite(ratios).all():
                raise diverged(config.task, f"the step of agent {agent.spec.agents[agent.agent_id]!r}", iteration)
            return ratios

        self.peer.begin(iteration, local_step, config.exchange_shape(agent.spec.num_agents), now)

    def finish(self) -> dict[str, float]:
        """Take the step that was agreed on; what `finish_update` of the agent says of it."""
        with self.clock.phase("finish"):
            return self.agent.finish_update()

    def metrics(
        self,
        learning: Mapping[str, float],
        traffic: Mapping[int, Mapping[str, Any]] | None = None,
        connections: Mapping[int, Mapping[str, Any]] | None = None,
        refused: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """The agent's line of the iteration that ended, once; arguments as of `agent_metrics`."""
        return agent_metrics(learning, self.peer, self.clock, traffic, connections, refused)
