"""The cost model, which predicts the time of an iteration on given machines: counts times constants, and waiting.

In the rollout all agents act at once, then the environment server steps and answers: T round trips. The updates'
first and last parts run beside each other. The consensus takes as long as the longest of three: its schedule on the
machines' cores, its longest chain of activations with what messages take on their way, and what the busiest machine's
connection has to carry. A machine with more busy processes than cores shares them out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matrpo.decentralized.lock_step.messages import Action, Observation
from matrpo.envs.shared import AgentStep
from matrpo.experiments.planning.cost_constants import Constants
from matrpo.experiments.planning.link_traffic import RUN_ID, LinkTraffic, link_traffic
from matrpo.experiments.planning.schedule_length import Pair, critical_path, makespan, rounds
from matrpo.experiments.planning.workload import SERVER_PHASES, Sizes, memory_bytes, phase_counts, step_counts
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.settings.config import Config, DecentralizedConfig
from matrpo.spaces import TaskSpec
from matrpo.topology import CommunicationGraph, link_sequence

_ITERATION = 1
"""The iteration whose schedule is used; those of others are as long, but for chance."""


@dataclass(frozen=True)
class Placement:
    """The placement of the processes on machines.

    The agents fill one machine after another. On one machine alone the environment server is there too, else it has one
    of its own.

    Attributes:
        cores: of each machine.
        agents_per_machine: at most so many are on one.
        bandwidth: of each machine's connection, either way, in bytes per second.
        latency: of a message between two machines, one way, in seconds.
        speed, server_speed: of the agents' and the environment server's processors, in those that constants are of.
    """

    cores: int
    agents_per_machine: int
    bandwidth: float = math.inf
    latency: float = 0.0
    speed: float = 1.0
    server_speed: float = 1.0

    def machines(self, agents: int) -> list[int]:
        """The machine of each agent."""
        return [agent // self.agents_per_machine for agent in range(agents)]


LIMITS = ("computing", "schedule", "cores", "environment", "latency", "link bandwidth", "server bandwidth")
"""What can limit an iteration's speed: an agent's own computing, waiting for neighbours whose turn it is, waiting for
a core, the environment server, messages on their way, and what connections carry, the agents' or the server's."""


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of an iteration.

    Attributes:
        seconds: it takes.
        phases: seconds of the average agent in each phase, and waiting; together `seconds`.
        limits: seconds by `LIMITS`; together `seconds`.
        cpu: processor seconds of an average agent in each of its phases, and of the server in its.
        traffic: what the links carry.
        activations: K.
        rounds: least number of rounds of activations at the same time.
        observation_bytes, action_bytes: what the server sends to an agent at a step, and gets.
        agent_bytes: memory of an agent.
        machines: how many there are.
    """

    seconds: float
    phases: dict[str, float]
    limits: dict[str, float]
    cpu: dict[str, float]
    traffic: LinkTraffic
    activations: int
    rounds: int
    observation_bytes: float
    action_bytes: int
    agent_bytes: float
    machines: int

    @property
    def bottleneck(self) -> str:
        """The limit that takes most of the time."""
        return max(self.limits, key=lambda name: self.limits[name])


@dataclass(frozen=True)
class _Part:
    """A part of an iteration: seconds of the average agent by phase without waiting, and all seconds by limit."""

    phases: dict[str, float]
    limits: dict[str, float]


def predict(
    config: DecentralizedConfig, spec: TaskSpec, graph: CommunicationGraph, constants: Constants, placement: Placement
) -> Prediction:
    """Predict an iteration of a run.

    Args:
        config: its settings.
        spec: of its task.
        graph: its communication graph.
        constants: what work takes.
        placement: the machines.
    """
    sizes = Sizes.of(config, spec, len(graph.links))
    counts = phase_counts(sizes, config, constants.products)
    cpu = {
        phase: constants.cost(phase, own) / (placement.server_speed if phase in SERVER_PHASES else placement.speed)
        for phase, own in counts.items()
    }
    kind = "seeded" if config.schedule == "poisson" else config.schedule
    sequence = link_sequence(kind, graph, config.admm_iterations, config.seed, _ITERATION).tolist()
    pairs = [graph.links[link] for link in sequence]
    traffic = link_traffic(graph, sequence, config)
    own_steps = Counter(agent for pair in pairs for agent in pair)
    most = max(own_steps.values(), default=1)
    steps = step_counts(sizes, config, constants.products, most)
    costs = [constants.cost("consensus", own) / placement.speed for own in steps]
    up_to = np.concatenate([[0.0], np.cumsum(costs)])
    # An agent without an activation takes a step alone.
    cpu["consensus"] = float(np.mean([up_to[own_steps[agent] or 1] for agent in range(graph.num_agents)]))
    observation, action = _environment_bytes(config, spec)
    parts = [
        _rollout(sizes, cpu, placement, observation, action),
        _beside_each_other(sizes.agents, cpu, placement),
        _consensus(pairs, costs, cpu["consensus"], traffic, placement, sizes.agents),
    ]
    limits = {name: sum(part.limits.get(name, 0.0) for part in parts) for name in LIMITS}
    seconds = sum(limits.values())
    phases = {name: value for part in parts for name, value in part.phases.items()}
    phases["waiting"] = max(0.0, seconds - sum(phases.values()))
    memory = constants.base_bytes + memory_bytes(sizes, config, constants.products, most)
    machines = max(placement.machines(sizes.agents)) + 1
    return Prediction(
        seconds, phases, limits, cpu, traffic, len(pairs), rounds(pairs), observation, action, memory, machines
    )


def _neighbours(agents: int, placement: Placement) -> int:
    """The largest number of agents on one machine."""
    return min(agents, placement.agents_per_machine)


def _rollout(s: Sizes, cpu: dict[str, float], placement: Placement, observation: float, action: int) -> _Part:
    """The rollout, T times: the environment steps, the server sends observations one by one, and each agent acts."""
    act, step, serve = (cpu[phase] / s.rollout_length for phase in ("act", "step", "serve"))
    apart = s.agents > placement.agents_per_machine
    busy = _neighbours(s.agents, placement) * act + (0.0 if apart else serve)
    sent = s.agents * observation / placement.bandwidth if apart else 0.0
    received = s.agents * action / placement.bandwidth if apart else 0.0
    sending = max(serve, sent)
    limits = {
        "computing": act,
        "cores": max(0.0, busy / placement.cores - sending - act),
        "environment": step + serve,
        "server bandwidth": sending - serve + received,
        "latency": 2 * placement.latency if apart else 0.0,
    }
    own = {"rollout": act + limits["cores"]}
    return _Part(_times(s.rollout_length, own), _times(s.rollout_length, limits))


def _beside_each_other(agents: int, cpu: dict[str, float], placement: Placement) -> _Part:
    """The phases that all agents compute in parallel, the environment server being idle."""
    share = max(1.0, _neighbours(agents, placement) / placement.cores)
    own = {"critic": cpu["prepare"], "finish": cpu["finish"] + cpu["record"]}
    computing = sum(own.values())
    return _Part(_times(share, own), {"computing": computing, "cores": (share - 1.0) * computing})


def _consensus(
    pairs: Sequence[Pair], costs: Sequence[float], own: float, traffic: LinkTraffic, placement: Placement, agents: int
) -> _Part:
    machines = placement.machines(agents)
    crowd = _neighbours(agents, placement) / placement.cores
    compute = own * max(1.0, crowd)
    far = [machines[i] != machines[j] for i, j in pairs]
    sending = traffic.largest_message / placement.bandwidth if any(far) else 0.0
    chain, chain_with_latency, chain_with_all = (
        critical_path(pairs, costs, [each * is_far for is_far in far])
        for each in (0.0, placement.latency, placement.latency + sending)
    )
    chain = max(chain, own)  # without links, one step alone
    on_cores = makespan(pairs, costs, machines, placement.cores) if crowd > 1.0 else chain
    computed = max(chain, compute, on_cores)
    sends = Counter[int]()
    for (i, j), is_far in zip(pairs, far, strict=True):
        sends.update({machines[i]: is_far, machines[j]: is_far})
    late = max(computed, chain_with_latency)
    total = max(late, chain_with_all, max(sends.values(), default=0) * sending)
    on_the_way = sum(far) * 2 / agents * (placement.latency + sending)
    return _Part(
        {"consensus compute": compute, "consensus communication": min(on_the_way, total - compute)},
        {
            "computing": own,
            "schedule": chain - own,
            "cores": computed - chain,
            "latency": late - computed,
            "link bandwidth": total - late,
        },
    )


def _times(factor: float, seconds: dict[str, float]) -> dict[str, float]:
    return {name: factor * value for name, value in seconds.items()}


def _environment_bytes(config: Config, spec: TaskSpec) -> tuple[float, int]:
    """Bytes of an observation for the agent that sees most, on average over an episode's steps, and of an action."""
    b = config.num_envs
    agent = int(np.argmax(spec.observation_sizes))
    codec = EnvironmentCodec(RUN_ID, spec, b)
    seen = np.zeros((b, spec.observation_sizes[agent]), np.float32)
    flags = np.zeros(b, bool)
    numbers = np.zeros(b, np.float32)
    step = AgentStep(seen, numbers, numbers[:1], flags, flags, None, spec.noop(b), None)
    frames = codec.encode_observation(Observation(1, _ITERATION, 1, step), agent)
    final = seen.nbytes / spec.episode_length if spec.episode_length else 0.0
    action = Action(agent, 1, _ITERATION, 1, np.zeros((b, spec.action_spaces[agent].width), np.float32))
    return sum(map(len, frames)) + final, sum(map(len, codec.encode(action)))
