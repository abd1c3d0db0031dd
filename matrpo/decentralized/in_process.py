"""Rollout and consensus of all agents in one process: direct calls in place of sockets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matrpo.consensus.bus import run_in_process
from matrpo.decentralized.iteration import Participant
from matrpo.envs.shared import AgentStep, SharedEnvironment


def roll_out(
    participants: Sequence[Participant], environment: SharedEnvironment, steps: Sequence[AgentStep], length: int
) -> list[AgentStep]:
    """Collect a rollout: step the environment with all agents' actions.

    Args:
        participants: every agent's, in the order of their ids.
        environment: the one that they share.
        steps: each agent's current observation.
        length: T, the steps of the rollout.

    Returns:
        Each agent's observation after the last step.
    """
    for _ in range(length):
        actions = [participant.agent.act(step) for participant, step in zip(participants, steps, strict=True)]
        steps = environment.step(np.concatenate(actions, axis=1))
    return list(steps)


def agree(participants: Sequence[Participant], iteration: int) -> None:
    """Run the consensus of an iteration that all agents have prepared to its end."""
    for participant in participants:
        participant.begin(iteration, now=0.0)
    run_in_process([participant.peer for participant in participants])
