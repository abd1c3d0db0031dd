"""Declarations of all settings, section by section: type, default, bounds and help text of each.

A part of the system takes the sections that it reads, a `Config` is all sections at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from matrpo.settings import algorithm_names


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    check: Callable[[str], None] | None = None,
    resumable: bool = False,
) -> Any:
    """A dataclass field with its help text and its allowed values.

    Args:
        default: the value if none is given.
        help: what it is.
        choices: the allowed texts, if there are only these.
        minimum, maximum: bounds that are allowed themselves.
        above: a bound that is not.
        check: raises `ConfigError` for a text that is not allowed.
        resumable: whether it may differ when a run is resumed.
    """
    limits = {"choices": choices, "minimum": minimum, "maximum": maximum, "above": above, "check": check}
    return field(default=default, metadata={"help": help, "resumable": resumable, **limits})


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Algorithm, task, number of agents, communication graph, seed and length of a run."""

    heading: ClassVar[str] = "What to run"

    algo: str = setting(
        "matrpo",
        "Algorithm; `matrpo list algorithms` names them. Your own: path/to/file.py:Class.",
        check=algorithm_names.check,
    )
    task: str = setting("navigation", "Task; `matrpo list tasks` names them. Your own: path/to/file.py:factory.")
    agents: int | None = setting(None, "Number of agents (default: 12, or what the task fixes).", minimum=1)
    topology: str = setting("ring", "Communication graph; `matrpo list topologies` names them. Two agents: line.")
    seed: int = setting(0, "Seed of everything random in the run.", minimum=0)
    steps: int = setting(1_000_000, "Environment steps, over all environments.", minimum=1, resumable=True)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Simulation of environments, assignment of rewards to agents, and size of a rollout."""

    heading: ClassVar[str] = "Sampling"

    num_envs: int = setting(100, "Environments simulated in a batch (B).", minimum=1)
    env_workers: int | None = setting(
        None,
        "Processes that step what is stepped in turn, for each server: MuJoCo's robots (default: its share of the "
        "cores) and PettingZoo's environments (default: none but the server). Batched tasks need none.",
        minimum=1,
        resumable=True,
    )
    episode_length: int | None = setting(
        None,
        "Steps after which an episode is cut off, as by a time limit (PettingZoo's environments, traffic).",
        minimum=1,
    )
    rollout_length: int = setting(100, "Steps of each environment per iteration (T).", minimum=1)
    observe_changes: float | None = setting(
        None,
        "Also show agents by how much what they observe changed in the last step, times this: how fast others move, "
        "say (default: do not).",
        above=0.0,
    )
    reward: str = setting(
        "own",
        "Who is paid: each agent what the task pays it, every agent the sum of what all earn, or the first agent that "
        "sum and the others nothing.",
        choices=("own", "shared", "one-agent"),
    )
    reward_scaling: bool = setting(True, "Divide all rewards by one running scale, common to all agents.")

    @property
    def samples(self) -> int:
        """Number M of samples of one iteration; a sample's index is the same for all agents."""
        return self.num_envs * self.rollout_length


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The networks of policies and critics."""

    heading: ClassVar[str] = "Networks"

    hidden_sizes: tuple[int, ...] = setting((128, 128), "Hidden layers of policy and critic.", minimum=1)
    feature_normalization: bool = setting(
        False,
        "Layer normalisation: each observation, and the values of each hidden layer, get mean 0 and variance 1.",
    )
    activation: str = setting("selu", "Activation of the hidden layers.", choices=("selu", "tanh", "relu", "elu"))
    orthogonal_initialization: bool = setting(False, "Begin with orthogonal matrices, not with normal weights.")
    recurrent_layers: int = setting(
        0, "GRU layers after the hidden ones, in policy and critic; 0: feedforward networks.", minimum=0
    )
    chunk_length: int = setting(10, "Steps that backpropagation through GRU layers goes back.", minimum=1)
    initial_log_std: float = setting(-0.5, "Initial log standard deviation of Gaussian policies, in half ranges.")
    share_parameters: bool = setting(False, "One policy for all agents (algorithms that train centrally).")
    agent_id: bool = setting(
        False,
        "Tell a shared policy whose observation it is, by a one-hot agent id; agents that differ are padded.",
    )


@dataclass(frozen=True, kw_only=True)
class CriticSettings:
    """How critics are fitted, and advantages estimated by them."""

    heading: ClassVar[str] = "Critic and advantage"

    gamma: float = setting(0.95, "Discount.", minimum=0.0, maximum=1.0)
    gae_lambda: float = setting(0.95, "GAE's lambda.", minimum=0.0, maximum=1.0)
    critic_epochs: int = setting(6, "Passes over the samples when fitting the critic.", minimum=1)
    critic_batch: int = setting(250, "Samples in a critic minibatch.", minimum=1)
    critic_lr: float = setting(1e-3, "Adam's learning rate for the critic.", above=0.0)
    huber_delta: float | None = setting(None, "Errors beyond this count linearly (default: squared).", above=0.0)
    value_clip: float | None = setting(None, "Furthest that values may move in a fit (default: anywhere).", above=0.0)
    max_grad_norm: float | None = setting(None, "Longest gradient, of policy or critic (default: any).", above=0.0)


@dataclass(frozen=True, kw_only=True)
class TrustRegionSettings:
    """The trust region, the solver of the local step, and the line search."""

    heading: ClassVar[str] = "Trust region"

    kl_step: float = setting(0.012, "Each agent's share of the KL trust region (delta/N).", above=0.0)
    kl_decay: bool = setting(False, "Let the trust region shrink linearly to nothing.")
    damping: float = setting(0.1, "Multiple of the identity added to the Fisher matrix.", minimum=0.0)
    step_damping: float | None = setting(
        None,
        "The same for the step that agents take at the end of a consensus; a large one makes it the plain gradient's "
        "(default: with averaging, damping; with ADMM there is no such step, the last local one is taken).",
        minimum=0.0,
    )
    fisher_samples: int | None = setting(
        None, "Samples of an iteration that the Fisher matrix is of, spread evenly (default: all).", minimum=1
    )
    solver: str = setting("recycled", "Solver of the local step.", choices=("recycled", "cg"))
    cg_iterations: int = setting(10, "CG iterations per solve (cg), or most first directions (recycled).", minimum=1)
    solver_tolerance: float = setting(0.1, "Relative residual at which no more directions are added.", above=0.0)
    solver_extension: int = setting(2, "Most directions added by a residual check.", minimum=1)
    solver_check_every: int = setting(4, "Solves between two residual checks.", minimum=1)
    step_rule: str = setting(
        "kkt",
        "Length of local steps: the KKT point, or always the boundary as printed in the paper.",
        choices=("kkt", "paper"),
    )
    backtrack_limit: int = setting(10, "Times that the step is shortened before it is given up.", minimum=0)
    backtrack_factor: float = setting(0.5, "What a step is shortened by.", above=0.0, maximum=0.99)
    backtrack_kl: float = setting(1.5, "Largest accepted true KL, as a multiple of kl_step.", above=0.0)
    accept_ratio: float = setting(
        0.5, "Least accepted gain, as a multiple of the linear model's (algorithms that train centrally).", minimum=0.0
    )


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings:
    """Policy-gradient updates of actors."""

    heading: ClassVar[str] = "Policy gradient"

    state_type: str = setting(
        "ep", "What the centralised critic sees: the environment's state, or one for each agent.", choices=("ep", "fp")
    )
    actor_lr: float = setting(5e-4, "Adam's learning rate for policies.", above=0.0)
    lr_decay: bool = setting(False, "Let learning rates fall linearly to zero.")
    policy_epochs: int = setting(5, "Passes over the samples when a policy ascends its gradient.", minimum=1)
    policy_batch: int = setting(4000, "Samples in a policy's minibatch.", minimum=1)
    clip_range: float = setting(0.2, "How far from 1 a policy's ratio counts.", above=0.0)
    clip_scaling: str = setting(
        "none", "Divide the clip range by the number of agents, or not.", choices=("none", "per-agent")
    )
    entropy_coef: float = setting(0.01, "Weight of the entropy in a policy's objective.", minimum=0.0)
    agent_order: str = setting("random", "Order in which agents update one after another.", choices=("random", "fixed"))


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """The replay buffer, and the off-policy updates from it."""

    heading: ClassVar[str] = "Replay"

    buffer_size: int = setting(1_000_000, "Transitions in the replay buffer, over all environments.", minimum=1)
    batch_size: int = setting(1000, "Transitions that an update learns from.", minimum=1)
    warmup_steps: int = setting(10_000, "First environment steps, which act at random and learn nothing.", minimum=0)
    updates_per_step: float = setting(1.0, "Updates per step of all environments; fractions add up.", above=0.0)
    n_step: int = setting(1, "Rewards that a target adds up before it bootstraps.", minimum=1)
    polyak: float = setting(0.005, "How far an update moves target networks.", above=0.0, maximum=1.0)
    policy_delay: int = setting(2, "Critic updates per policy update (hatd3, matd3).", minimum=1)
    exploration_noise: float = setting(
        0.1, "Standard deviation of the noise on continuous actions, in half action ranges.", minimum=0.0
    )
    policy_noise: float = setting(0.2, "The same of the noise on target actions (hatd3, matd3).", minimum=0.0)
    noise_clip: float = setting(0.5, "Largest noise on target actions, in half action ranges.", minimum=0.0)
    epsilon: float = setting(0.05, "Probability of random actions (had3qn, qmix).", minimum=0.0, maximum=1.0)
    epsilon_steps: int = setting(0, "Environment steps over which that probability falls from 1.", minimum=0)
    temperature: float | None = setting(
        None,
        "Weight of the policies' entropy (hasac; default: learned, one for each agent, to hold its target entropy).",
        above=0.0,
    )
    temperature_lr: float = setting(3e-4, "Adam's learning rate for the temperatures (hasac).", above=0.0)
    target_entropy: float = setting(
        0.98,
        "Target entropy of discrete policies, as a share of the largest (hasac); that of a continuous one is minus its "
        "number of components, in half action ranges.",
        minimum=0.0,
        maximum=1.0,
    )
    dueling: bool = setting(True, "Dueling Q-networks, with heads for values and advantages (had3qn); off: one head.")
    dueling_sizes: tuple[int, ...] = setting((128,), "Hidden layers of those heads.", minimum=1)
    mixer_size: int = setting(32, "Hidden units of QMIX's mixing network.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class ConsensusSettings:
    """The consensus of a decentralised run; None is a default that depends on the kind of consensus and the graph."""

    heading: ClassVar[str] = "Consensus"

    consensus: str = setting(
        "admm",
        "How neighbours come to agree: by ADMM, as in the paper, or by averaging their natural gradients' log ratios.",
        choices=("admm", "averaging"),
    )
    beta: float | None = setting(
        None,
        "ADMM penalty (default: 0.005 times 1 + the graph's diameter); for averaging, how strongly an activation acts, "
        "below 2 (default: 1, the mean, or what mixes faster over the graph's matchings).",
        above=0.0,
    )
    admm_iterations: int | None = setting(
        None,
        "Link activations per iteration (K; default: 32 + the graph's diameter, per link; for averaging, as many as "
        "leave 0.2% of their differences).",
        minimum=0,
    )
    schedule: str = setting(
        "seeded",
        "Who activates which link when: random links, rounds of links without a common agent (the default of "
        "averaging), or a clock per link.",
        choices=("seeded", "matchings", "poisson"),
    )
    wire_dtype: str = setting("float32", "Type of log ratios on the wire.", choices=("float32", "float16"))
    consensus_samples: int | None = setting(
        None, "Samples of an iteration that the consensus is about, drawn anew each time (default: all).", minimum=1
    )
    model_epochs: int = setting(
        0,
        "Passes over the samples in which an agent's models of the others are fitted to what they did; 0, as in the "
        "paper: they follow the consensus alone.",
        minimum=0,
    )


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """The links between agents, and their connections to environment servers."""

    heading: ClassVar[str] = "Links"

    link_deadline: float = setting(
        60.0, "Seconds an activation may take before it is given up.", above=0.0, resumable=True
    )
    link_resend: float = setting(
        2.0, "Most seconds until a message that does not come is asked for again.", above=0.0, resumable=True
    )
    env_servers: int = setting(1, "Environment servers: processes that simulate, each its share of B.", minimum=1)
    on_agent_loss: str = setting(
        "noop",
        "When an agent is lost: go on with the task's default actions in its place (zeros, mostly) until it is back, "
        "wait for it, or abort the run.",
        choices=("noop", "wait", "abort"),
        resumable=True,
    )
    agent_deadline: float = setting(
        60.0,
        "Seconds that the others wait for an agent that is connected and does not act, until it counts as lost: more "
        "than their updates differ by.",
        above=0.0,
        resumable=True,
    )
    transport: str = setting("ipc", "Sockets between local processes.", choices=("ipc", "tcp"), resumable=True)
    port: int = setting(
        5600, "First TCP port (transport tcp); one more for each agent.", minimum=1, maximum=65000, resumable=True
    )
    insecure: bool = setting(False, "Allow TCP without encryption and authentication.", resumable=True)


@dataclass(frozen=True, kw_only=True)
class BookkeepingSettings:
    """Where networks learn, threads, checkpoints, event files and trackers."""

    heading: ClassVar[str] = "Bookkeeping"

    device: str = setting(
        "cpu",
        "Where networks learn: the processor, a graphics card, or one where there is one and the run is one process. "
        "Acting and environments stay on the processor.",
        choices=("cpu", "cuda", "auto"),
        resumable=True,
    )
    torch_threads: int = setting(1, "Torch threads of each agent.", minimum=1, resumable=True)
    checkpoint_every: int = setting(10, "Iterations between checkpoints.", minimum=1, resumable=True)
    checkpoints_kept: int = setting(3, "Checkpoints kept by each process.", minimum=1, resumable=True)
    tensorboard: bool = setting(True, "Write TensorBoard event files.", resumable=True)
    tracker: str = setting(
        "none",
        "Also send settings and metrics to Weights & Biases (in files, unless WANDB_MODE says online) or to MLflow; of "
        "runs that `matrpo launch` does not start, `matrpo track` does.",
        choices=("none", "wandb", "mlflow"),
        resumable=True,
    )
