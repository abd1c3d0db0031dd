"""Counts of the operations of a run's processes in an iteration, which the cost model multiplies by its constants.

A *weight* is a number of a matrix that inputs are multiplied by; a network's pass over a sample takes two
floating-point operations for each. Products with vectors of parameters count as in `matrpo.networks.mlp`: two matrix
products a layer each for J x and for J^T w, so four operations a weight and sample, and eight for a Fisher product.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec

PHASES = {
    "act": ("step", "operation"),
    "prepare": ("minibatch", "operation"),
    "consensus": ("activation", "operation", "number"),
    "finish": ("iteration", "operation"),
    "record": ("iteration", "number"),
    "step": ("step", "number"),
    "serve": ("message", "number"),
}
"""The names of the counts of each phase."""

SERVER_PHASES = ("step", "serve")
"""The phases of the environment server: its own steps, and its messages. The others are an agent's."""

Counts = tuple[float, ...]

_EIGENVECTORS = 10
"""Floating-point operations for the eigenvectors of a symmetric n x n matrix, over n^3."""

_LINK_PASSES = 24
"""Passes over an agent's log ratios in an activation: weights, checks, packing, checksums, copies, the commit."""

_TERM_PASSES = 4
"""Passes over the state of each of an agent's links when it gathers what they ask for."""

_HEAD_PASSES = 10
"""Passes over all distribution parameters in a Fisher product."""

_FINISH_PASSES = 3
"""Passes of the policy over all samples when a step is applied: before, after, and for the own head."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that work is counted by.

    Attributes:
        agents: N, the heads of a policy.
        envs, rollout_length: B and T.
        shared_samples: m.
        observation: of the agent that sees most.
        outputs: distribution parameters of all heads.
        action_width: columns of the joint action.
        policy, critic: (inputs, hidden..., outputs) of the networks.
        recurrent_layers: GRU layers of each.
        degree: links of an agent, on average.
    """

    agents: int
    envs: int
    rollout_length: int
    shared_samples: int
    observation: int
    outputs: int
    action_width: int
    policy: tuple[int, ...]
    critic: tuple[int, ...]
    recurrent_layers: int
    degree: float

    @classmethod
    def of(cls, config: Config, spec: TaskSpec, num_links: int) -> Sizes:
        """The sizes of a run."""
        outputs = sum(space.parameters for space in spec.action_spaces)
        observation = max(spec.observation_sizes)
        return cls(
            spec.num_agents,
            config.num_envs,
            config.rollout_length,
            config.shared_samples,
            observation,
            outputs,
            spec.joint_action_width,
            (observation, *config.hidden_sizes, outputs),
            (observation, *config.hidden_sizes, 1),
            config.recurrent_layers,
            2 * num_links / spec.num_agents,
        )

    @property
    def samples(self) -> int:
        """M, the samples of an iteration."""
        return self.envs * self.rollout_length

    @property
    def policy_weights(self) -> int:
        """Weights of the policy network."""
        return self._weights(self.policy)

    @property
    def critic_weights(self) -> int:
        """Weights of the critic."""
        return self._weights(self.critic)

    @property
    def ratios(self) -> int:
        """Log ratios of all heads on all samples, N M: what a solver keeps of each direction."""
        return self.agents * self.samples

    @property
    def shared_ratios(self) -> int:
        """Log ratios in a message, N m."""
        return self.agents * self.shared_samples

    def _weights(self, layers: tuple[int, ...]) -> int:
        gates = 6 * self.recurrent_layers * layers[-2] ** 2
        return gates + sum(inputs * outputs for inputs, outputs in pairwise(layers))


def phase_counts(sizes: Sizes, config: Config, made: Products) -> dict[str, Counts]:
    """The counts of each phase but the consensus, whose local steps differ: see `step_counts`.

    With averaging, an agent solves for its own natural gradient before the consensus, and for that of the mean after;
    with a `step_damping`, after ADMM as well.
    """
    s = sizes
    averaging = config.consensus == "averaging"
    solve = 4 * s.samples * s.policy_weights
    before, after = averaging * solve, (averaging or config.step_damping is not None) * solve
    products = 2 * config.fisher_share * made.at(0, config)
    messages = 2 * s.rollout_length * s.agents
    handed_out = s.rollout_length * s.agents * s.envs * (s.observation + s.action_width)
    states = 2 * (s.policy_weights + 3 * s.critic_weights) + 4 * s.degree * s.shared_ratios
    return {
        "act": (s.rollout_length, 2 * s.samples * s.policy_weights),
        "prepare": _prepare_counts(s, config, (products + 2) * before),
        "finish": (1, 2 * _FINISH_PASSES * s.samples * s.policy_weights + (products + 1) * after),
        "record": (1, states),
        "step": (s.rollout_length, s.rollout_length * s.agents * s.envs * s.observation),
        "serve": (messages, handed_out),
    }


def _prepare_counts(s: Sizes, config: Config, solve: float) -> Counts:
    """Fitting the critic, two passes of it for advantages, the linearisation, the preconditioner's factors, a solve."""
    minibatches = config.critic_epochs * -(-s.samples // config.critic_batch)
    operations: float = solve + s.critic_weights * s.samples * (6 * config.critic_epochs + 4)
    operations += 2 * _linearised(config) * s.policy_weights * s.samples
    operations += 6 * config.model_epochs * s.samples * s.policy[-2] * s.outputs
    if config.solver == "recycled":
        operations += 2 * config.fisher_share * s.policy_weights * s.samples
        for inputs, outputs in pairwise(s.policy):
            operations += 2 * config.fisher_share * s.samples * ((inputs + 1) ** 2 + outputs**2)
            operations += _EIGENVECTORS * ((inputs + 1) ** 3 + outputs**3)
    return minibatches, operations


def _linearised(config: Config) -> float:
    """Samples that the policy is linearised at, as a multiple of M: all, and the Fisher matrix's share once more."""
    return 1.0 if config.fisher_share == 1.0 else 1.0 + config.fisher_share


@dataclass(frozen=True)
class Products:
    """Fisher products that a recycled solver makes in an iteration: how many are needed is measured, not counted.

    Attributes:
        first: at the first local step.
        later: at each one after it, on average.
    """

    first: float
    later: float

    def at(self, step: int, config: Config) -> float:
        """Fisher products of a local step, from 0; the settings say when there are any, and how many at most."""
        if config.solver == "cg":
            return config.cg_iterations
        if step == 0:
            return min(self.first, config.cg_iterations)
        if step % config.solver_check_every == 0:
            return min(self.later * config.solver_check_every, config.solver_extension)
        return 0.0


def step_counts(sizes: Sizes, config: Config, made: Products, steps: int) -> list[Counts]:
    """The counts of an agent's local steps in an iteration, each with its exchange of log ratios.

    Args:
        sizes, config: of the run.
        made: Fisher products.
        steps: how many local steps.
    """
    s, directions = sizes, 0.0
    exchange = s.shared_ratios * (_LINK_PASSES + _TERM_PASSES * s.degree)
    if config.consensus == "averaging":
        return [(1, 0.0, exchange + 2 * s.ratios)] * steps
    vector_product = 4 * s.samples * s.policy_weights
    counts: list[Counts] = []
    for step in range(steps):
        products, vector_products = made.at(step, config), _vector_products(config, step)
        operations = (_passes_of_fisher(config) * products + vector_products) * vector_product
        numbers = exchange + products * _HEAD_PASSES * config.fisher_share * s.samples * s.outputs
        if config.solver == "recycled":
            operations += products * sum(4 * (a + 1) * b * (a + 1 + b) for a, b in pairwise(s.policy))
            numbers += vector_products * directions * (s.policy_weights + s.ratios)
            numbers += products * 4 * directions * s.policy_weights
            directions += products
            numbers += 2 * directions * s.ratios
        counts.append((1, operations, numbers))
    return counts


def _passes_of_fisher(config: Config) -> float:
    """What a Fisher product costs, in passes of J or its transpose over all samples.

    On all samples, J p comes of it; a recycled solver needs that also where the Fisher matrix is of a share of them.
    """
    share = config.fisher_share
    return 2 * share + (share < 1.0 and config.solver == "recycled")


def _vector_products(config: Config, step: int) -> int:
    """Products with J or its transpose of a local step, from 0."""
    if config.solver == "cg":
        return 2
    return 1 if step % config.solver_check_every == 0 else 0


_PASSES_OF_TRANSIENTS = 8
"""Arrays of (N, M) that live at once besides the directions: weights, term of the links, log ratios, a product."""


def memory_bytes(sizes: Sizes, config: Config, made: Products, steps: int) -> int:
    """Bytes of the arrays that an agent holds when most are alive: late in the consensus.

    Args:
        sizes, config, made, steps: as of `step_counts`.
    """
    s = sizes
    parameters = s.policy_weights + sum(s.policy[1:])
    hidden = sum(s.policy[1:-1])
    samples = s.samples * (s.observation + s.action_width + 6)
    linearised = _linearised(config) * s.samples * (2 * hidden + s.outputs) + parameters
    networks = 4 * (parameters + 4 * s.critic_weights)
    links = s.degree * s.shared_ratios * 7
    transients = _PASSES_OF_TRANSIENTS * s.ratios
    solver = 0.0
    if config.consensus == "averaging":
        solver = 5 * parameters + 2 * s.ratios
    elif config.solver == "recycled":
        directions = sum(made.at(step, config) for step in range(steps))
        solver = directions * (2 * parameters + s.ratios)
    if config.solver == "recycled":
        solver += sum((a + 1) ** 2 + b**2 + (a + 1) * b for a, b in pairwise(s.policy))
    return round(4 * (samples + linearised + networks + links + transients + solver))
