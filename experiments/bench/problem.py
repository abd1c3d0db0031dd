"""The consensus problem of one iteration, isolated for benchmarks: N trained agents, M samples and their advantages."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from matrpo.build import build_participant
from matrpo.decentralized.agent import Agent
from matrpo.decentralized.in_process import agree, roll_out
from matrpo.envs.build import build_environment
from matrpo.experiments.bench.products import Shape
from matrpo.networks.linearized_policy import CHUNK
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.runs.phase_clock import PhaseClock
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.training import InProcessTraining


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint between two iterations: the states of all agents, and of their environment if it has one."""

    agents: Sequence[tuple[dict[str, np.ndarray], dict[str, Any]]]
    environment: dict[str, np.ndarray]


def train(config: Config, iterations: int) -> list[Snapshot]:
    """Train for some iterations in a temporary run; snapshots of before training and after each iteration."""
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        training = InProcessTraining(RunDirectory.create(Path(folder) / "run", config, {}))
        snapshots = [_snapshot(training)]
        for _ in range(iterations):
            training.iterate()
            snapshots.append(_snapshot(training))
    return snapshots


def _snapshot(training: InProcessTraining) -> Snapshot:
    states = [participant.agent.state_dict() for participant in training.participants]
    return Snapshot(states, training.environment.state_dict())


class Problem:
    """The state of one iteration at the start of its consensus phase, all agents in one process.

    The same snapshot gives the same samples and advantages with any settings of consensus and solver.

    Args:
        snapshot: where the iteration begins.
        config: the settings.

    Attributes:
        config, graph: the settings, and who talks to whom.
        participants, agents, peers: each agent's.
        advantages: A^q of each agent, (M,).
    """

    def __init__(self, snapshot: Snapshot, config: Config) -> None:
        self.config = resolved = resolve_graph_settings(run_config(config))
        self.graph = build_graph(resolved)
        environment = build_environment(resolved)
        spec = environment.spec
        everyone = range(spec.num_agents)
        self.participants = [build_participant(q, self.graph, spec, resolved, PhaseClock()) for q in everyone]
        self.agents = [agent for each in self.participants if isinstance(agent := each.agent, Agent)]
        self.peers = [participant.peer for participant in self.participants]
        for participant, state in zip(self.participants, snapshot.agents, strict=True):
            participant.agent.load_state_dict(*state)
        steps = environment.resume(snapshot.environment)
        steps = roll_out(self.participants, environment, steps, config.rollout_length)
        for participant, step in zip(self.participants, steps, strict=True):
            participant.prepare(step, iteration=1)
        self.advantages = [agent.update.advantages for agent in self.agents]

    def agree(self) -> None:
        """Run the consensus phase of the iteration, once."""
        agree(self.participants, iteration=1)

    def ratios(self) -> list[Tensor]:
        """u^q, the log ratios of the step that every agent would take, (N, M) each."""
        return [agent.update.model.jvp(agent.update.steps.change()) for agent in self.agents]

    def shape(self) -> Shape:
        """The shape of the first agent's network as it is linearised."""
        config, agent = self.config, self.agents[0]
        rows, steps = CHUNK, 1
        if sequences := agent.rollout.sequences:
            rows, steps = sequences.split(CHUNK)[0][0].stop, config.chunk_length
        outputs = agent.policy.groups[-1].outputs.stop
        sizes = (agent.rollout.observations.shape[1], *config.hidden_sizes, outputs)
        return Shape(sizes, config.recurrent_layers, min(rows, config.samples), steps)
