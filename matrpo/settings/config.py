"""Every setting of a run: one frozen dataclass, its checks, and where each value came from.

Values are resolved in this order, the later winning: defaults, what is tuned for the algorithm and the task (`tuned`),
preset, config file, command line.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError as ConfigError
from matrpo.errors import did_you_mean
from matrpo.settings import algorithm_names, tuned


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    check: Callable[[str], None] | None = None,
) -> Any:
    """A dataclass field with its help text and its allowed values.

    Args:
        default: the value if none is given.
        help: what it is.
        choices: the allowed texts, if there are only these.
        minimum, maximum: bounds that are allowed themselves.
        above: a bound that is not.
        check: raises `ConfigError` for a text that is not allowed.
    """
    limits = {"choices": choices, "minimum": minimum, "maximum": maximum, "above": above, "check": check}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """The settings of a run. Field metadata holds the help text and bounds that `validate` checks."""

    # What to run
    algo: str = setting(
        "matrpo",
        "Algorithm; `matrpo list algorithms` names them. Your own: path/to/file.py:Class.",
        check=algorithm_names.check,
    )
    task: str = setting("navigation", "Task; `matrpo list tasks` names them. Your own: path/to/file.py:factory.")
    agents: int | None = setting(None, "Number of agents (default: 12, or what the task fixes).", minimum=1)
    topology: str = setting("ring", "Communication graph; `matrpo list topologies` names them. Two agents: line.")
    seed: int = setting(0, "Seed of everything random in the run.", minimum=0)
    steps: int = setting(1_000_000, "Environment steps, over all environments.", minimum=1)

    # Sampling
    num_envs: int = setting(100, "Environments simulated in a batch (B).", minimum=1)
    env_workers: int | None = setting(
        None, "Processes that step MuJoCo's robots, for each server (default: its share of the cores).", minimum=1
    )
    rollout_length: int = setting(100, "Steps of each environment per iteration (T).", minimum=1)
    reward: str = setting(
        "own",
        "Who is paid: each agent what the task pays it, every agent the sum of what all earn, or the first agent that "
        "sum and the others nothing.",
        choices=("own", "shared", "one-agent"),
    )
    reward_scaling: bool = setting(True, "Divide all rewards by one running scale, common to all agents.")

    # Networks
    hidden_sizes: tuple[int, ...] = setting((128, 128), "Hidden layers of policy and critic.", minimum=1)
    feature_normalization: bool = setting(
        False, "Bring each observation, and the values of each hidden layer, to mean 0 and variance 1."
    )
    activation: str = setting("selu", "Activation of the hidden layers.", choices=("selu", "tanh", "relu", "elu"))
    orthogonal_initialization: bool = setting(False, "Begin with orthogonal matrices, not with normal weights.")
    recurrent_layers: int = setting(
        0, "GRU layers after the hidden ones, in policy and critic; 0: feedforward networks.", minimum=0
    )
    chunk_length: int = setting(10, "Steps that backpropagation through GRU layers goes back.", minimum=1)
    initial_log_std: float = setting(-0.5, "Initial log standard deviation of Gaussian policies.")
    share_parameters: bool = setting(False, "One policy for all agents (algorithms that train centrally).")

    # Critic and advantage
    gamma: float = setting(0.95, "Discount.", minimum=0.0, maximum=1.0)
    gae_lambda: float = setting(0.95, "GAE's lambda.", minimum=0.0, maximum=1.0)
    critic_epochs: int = setting(6, "Passes over the samples when fitting the critic.", minimum=1)
    critic_batch: int = setting(250, "Samples in a critic minibatch.", minimum=1)
    critic_lr: float = setting(1e-3, "Adam's learning rate for the critic.", above=0.0)
    huber_delta: float | None = setting(None, "Errors beyond this count linearly (default: squared).", above=0.0)
    value_clip: float | None = setting(None, "Furthest that values may move in a fit (default: anywhere).", above=0.0)
    max_grad_norm: float | None = setting(None, "Longest gradient, of policy or critic (default: any).", above=0.0)

    # Trust region
    kl_step: float = setting(0.012, "Each agent's share of the KL trust region (delta/N).", above=0.0)
    damping: float = setting(0.1, "Multiple of the identity added to the Fisher matrix.", minimum=0.0)
    solver: str = setting("recycled", "Solver of the local step.", choices=("recycled", "cg"))
    cg_iterations: int = setting(10, "CG iterations per solve (cg), or most first directions (recycled).", minimum=1)
    solver_tolerance: float = setting(0.1, "Relative residual at which no more directions are added.", above=0.0)
    solver_extension: int = setting(2, "Most directions added by a residual check.", minimum=1)
    solver_check_every: int = setting(4, "Solves between two residual checks.", minimum=1)
    step_rule: str = setting(
        "kkt",
        "Step length: the KKT point, or always the boundary as printed in the paper.",
        choices=("kkt", "paper"),
    )
    backtrack_limit: int = setting(10, "Times that the step is shortened before it is given up.", minimum=0)
    backtrack_factor: float = setting(0.5, "What a step is shortened by.", above=0.0, maximum=0.99)
    backtrack_kl: float = setting(1.5, "Largest accepted true KL, as a multiple of kl_step.", above=0.0)
    accept_ratio: float = setting(
        0.5, "Least accepted gain, as a multiple of the linear model's (algorithms that train centrally).", minimum=0.0
    )

    # Policy gradient
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

    # Replay
    buffer_size: int = setting(1_000_000, "Transitions in the replay buffer, over all environments.", minimum=1)
    batch_size: int = setting(1000, "Transitions that an update learns from.", minimum=1)
    warmup_steps: int = setting(10_000, "First environment steps, which act at random and learn nothing.", minimum=0)
    updates_per_step: float = setting(1.0, "Updates per step of all environments.", above=0.0)
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
    dueling_sizes: tuple[int, ...] = setting((128,), "Hidden layers of dueling value and advantage heads.", minimum=1)
    mixer_size: int = setting(32, "Hidden units of QMIX's mixing network.", minimum=1)

    # Consensus
    beta: float | None = setting(None, "ADMM penalty (default: 0.005 times 1 + the graph's diameter).", above=0.0)
    admm_iterations: int | None = setting(
        None, "Link activations per iteration (K; default: 32 + the graph's diameter, per link).", minimum=0
    )
    schedule: str = setting("seeded", "Who activates which link when.", choices=("seeded", "poisson"))
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

    # Links
    link_deadline: float = setting(60.0, "Seconds an activation may take before it is given up.", above=0.0)
    link_resend: float = setting(2.0, "Most seconds until a message that does not come is asked for again.", above=0.0)
    env_servers: int = setting(1, "Environment servers: processes that simulate, each its share of B.", minimum=1)
    on_agent_loss: str = setting(
        "noop",
        "When an agent's connection is lost: go on with actions of zeros in its place until it is back, wait for it, "
        "or abort the run.",
        choices=("noop", "wait", "abort"),
    )
    transport: str = setting("ipc", "Sockets between local processes.", choices=("ipc", "tcp"))
    port: int = setting(5600, "First TCP port (transport tcp); one more for each agent.", minimum=1, maximum=65000)
    insecure: bool = setting(False, "Allow TCP without encryption and authentication.")

    # Bookkeeping
    torch_threads: int = setting(1, "Torch threads of each agent.", minimum=1)
    checkpoint_every: int = setting(10, "Iterations between checkpoints.", minimum=1)
    checkpoints_kept: int = setting(3, "Checkpoints kept by each process.", minimum=1)
    tensorboard: bool = setting(True, "Write TensorBoard event files.")

    @property
    def samples(self) -> int:
        """M: samples of one iteration, shared index by index by all agents."""
        return self.num_envs * self.rollout_length

    @property
    def shared_samples(self) -> int:
        """m: samples of one iteration whose log ratios the agents exchange."""
        return self.samples if self.consensus_samples is None else self.consensus_samples

    @property
    def envs_per_server(self) -> int:
        """Environments that each environment server simulates."""
        return self.num_envs // self.env_servers

    @property
    def iterations(self) -> int:
        """Iterations that cover `steps` environment steps."""
        return -(-self.steps // self.samples)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config)}
"""The fields of `Config` by name, for whoever builds an interface from them."""

_FIRST_OF_SECTIONS = {
    "algo": "What to run",
    "num_envs": "Sampling",
    "hidden_sizes": "Networks",
    "gamma": "Critic and advantage",
    "kl_step": "Trust region",
    "state_type": "Policy gradient",
    "buffer_size": "Replay",
    "beta": "Consensus",
    "link_deadline": "Links",
    "torch_threads": "Bookkeeping",
}
"""The heading of a section by the setting that it begins with."""


def _headings() -> dict[str, str]:
    heading, headings = "", {}
    for name in FIELDS:
        heading = headings[name] = _FIRST_OF_SECTIONS.get(name, heading)
    return headings


HEADINGS = _headings()
"""The heading that each setting stands under: in help pages, and in what an algorithm says that it uses."""

_TYPES = typing.get_type_hints(Config)


def resolve(*layers: tuple[str, Mapping[str, Any]]) -> Config:
    """Build a `Config` from layers of values, each with the name of its origin; later layers win.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for key, value in layer.items():
            values[key] = _checked(key, value, origin)
            origins[key] = origin
    named = Config(**values)
    for key, value in tuned.load(named.algo, named.task).items():
        values.setdefault(key, _checked(key, value, f"tuned for {named.algo}"))
    config = Config(**values)
    _check_recurrence(config, origins)
    _check_consensus(config, origins)
    _check_servers(config, origins)
    return config


def check_used(algo: str, settings: Iterable[str], origin: str) -> None:
    """Check that an algorithm uses the settings that someone took the trouble to give.

    Raises:
        ConfigError: one of them changes nothing.
    """
    entry = algorithm_names.entry(algo)
    for key in settings:
        if not entry.uses(key, HEADINGS[key]):
            raise ConfigError(f"{algo} does not use the setting {key!r} ({origin}): leave it out")


def load_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of settings.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"{path} is not valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not a {type(content).__name__}")
    return content


def parse_override(text: str) -> tuple[str, Any]:
    """Split `key=value` and read the value as YAML.

    Raises:
        ConfigError: there is no `=`, or the value is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"-o {text}: expected key=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"-o {text}: the value is not valid YAML") from None


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain YAML types, in declaration order."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def _checked(key: Any, value: Any, origin: str) -> Any:
    if key not in FIELDS:
        raise ConfigError(f"unknown setting {key!r} ({origin}){did_you_mean(str(key), FIELDS, cutoff=0.5)}")
    converted = _convert(key, value, origin)
    _check_range(key, converted, origin)
    return converted


def _check_recurrence(config: Config, origins: Mapping[str, str]) -> None:
    if config.recurrent_layers == 0:
        return
    if config.rollout_length % config.chunk_length:
        origin = origins.get("chunk_length", "default")
        expected = f"a divisor of rollout_length, {config.rollout_length}, as recurrent_layers is set"
        raise _bad("chunk_length", config.chunk_length, expected, origin)
    if not config.hidden_sizes:
        raise _bad("hidden_sizes", [], "at least one layer, as recurrent_layers is set", origins["hidden_sizes"])


def _check_consensus(config: Config, origins: Mapping[str, str]) -> None:
    if config.shared_samples > config.samples:
        expected = f"at most the {config.samples} samples of an iteration, num_envs times rollout_length"
        raise _bad("consensus_samples", config.consensus_samples, expected, origins["consensus_samples"])


def _check_servers(config: Config, origins: Mapping[str, str]) -> None:
    if config.num_envs % config.env_servers:
        expected = f"a divisor of num_envs, {config.num_envs}"
        raise _bad("env_servers", config.env_servers, expected, origins["env_servers"])


def _convert(key: str, value: Any, origin: str) -> Any:
    kind = _TYPES[key]
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        if all(type(item) is int for item in items):
            return tuple(items)
        raise _bad(key, value, "a list of integers", origin)
    if kind is float and type(value) in (int, str):
        # YAML reads 1e-3 as a string.
        try:
            value = float(value)
        except ValueError:
            raise _bad(key, value, "a number", origin) from None
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
        raise _bad(key, value, names[kind], origin)
    return value


def _check_range(key: str, value: Any, origin: str) -> None:
    limits = FIELDS[key].metadata
    if limits["check"]:
        limits["check"](value)
    if limits["choices"] and value not in limits["choices"]:
        hint = did_you_mean(str(value), limits["choices"])
        raise _bad(key, value, "one of " + ", ".join(limits["choices"]), origin, hint)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str | bool | None):
            continue
        if not abs(number) < float("inf"):
            raise _bad(key, value, "a finite number", origin)
        if limits["minimum"] is not None and number < limits["minimum"]:
            raise _bad(key, value, f"at least {limits['minimum']}", origin)
        if limits["maximum"] is not None and number > limits["maximum"]:
            raise _bad(key, value, f"at most {limits['maximum']}", origin)
        if limits["above"] is not None and number <= limits["above"]:
            raise _bad(key, value, f"above {limits['above']}", origin)


def _bad(key: str, value: Any, expected: str, origin: str, hint: str = "") -> ConfigError:
    return ConfigError(f"bad value {value!r} for {key!r} ({origin}): expected {expected}{hint}")
