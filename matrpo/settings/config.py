"""The settings of a run: all sections in one frozen dataclass, their checks, and where each value came from.

Values are resolved in this order, the later winning: defaults, what is tuned for the algorithm and the task (`tuned`),
preset, config file, command line.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError as ConfigError
from matrpo.errors import did_you_mean
from matrpo.settings import algorithm_names, tuned
from matrpo.settings.sections import (
    BookkeepingSettings,
    ConnectionSettings,
    ConsensusSettings,
    CriticSettings,
    NetworkSettings,
    PolicyGradientSettings,
    ReplaySettings,
    RunSettings,
    SamplingSettings,
    TrustRegionSettings,
)


@dataclass(frozen=True, kw_only=True)
class Config(
    RunSettings,
    SamplingSettings,
    NetworkSettings,
    CriticSettings,
    TrustRegionSettings,
    PolicyGradientSettings,
    ReplaySettings,
    ConsensusSettings,
    ConnectionSettings,
    BookkeepingSettings,
):
    """The settings of a run: inherits from all sections, so that it can be passed to whatever takes one of them."""

    @property
    def shared_samples(self) -> int:
        """Number m of samples of one iteration whose log ratios the agents exchange."""
        return self.samples if self.consensus_samples is None else self.consensus_samples

    def exchange_shape(self, num_agents: int) -> tuple[int, int]:
        """Shape of what neighbours send each other: (N, m) log ratios, or (1, M) value targets."""
        if algorithm_names.entry(self.algo).averages_targets:
            return 1, self.samples
        return num_agents, self.shared_samples

    @property
    def fisher_share(self) -> float:
        """Share of an iteration's samples that the Fisher matrix is of."""
        return 1.0 if self.fisher_samples is None else self.fisher_samples / self.samples

    @property
    def envs_per_server(self) -> int:
        """Number of environments that each environment server simulates."""
        return self.num_envs // self.env_servers

    @property
    def iterations(self) -> int:
        """Number of iterations that cover `steps` environment steps."""
        return -(-self.steps // self.samples)

    def part_left(self, iteration: int) -> float:
        """The part of the run that is left when an iteration begins, from 1 in the first, to which rates decay."""
        return 1.0 - (iteration - 1) / self.iterations

    def trust_region(self, iteration: int) -> float:
        """Each agent's share of the KL trust region in an iteration: `kl_step`, or with `kl_decay` a part of it."""
        return self.kl_step * (self.part_left(iteration) if self.kl_decay else 1.0)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """The settings of a run whose number of agents is known."""

    agents: int = field()

    @classmethod
    def of(cls, config: Config, agents: int) -> RunConfig:
        """The settings with that many agents."""
        return cls(**{**vars(config), "agents": agents})


@dataclass(frozen=True, kw_only=True)
class GraphConsensusSettings(ConsensusSettings):
    """The consensus on a known graph."""

    beta: float = field()
    admm_iterations: int = field()


@dataclass(frozen=True, kw_only=True)
class DecentralizedConfig(GraphConsensusSettings, RunConfig):
    """The settings of a decentralised run, with beta and K as numbers."""


SECTIONS: tuple[Any, ...] = Config.__bases__
"""All sections, in the order of help pages and of config.yaml."""

FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for section in SECTIONS for f in dataclasses.fields(section)}
"""Every setting's dataclass field by name, for building user interfaces."""

HEADINGS = {f.name: section.heading for section in SECTIONS for f in dataclasses.fields(section)}
"""The heading of the section that each setting stands in."""

_TYPES = typing.get_type_hints(Config)
_LARGEST_INTEGER = 2**63 - 1


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
    if algorithm_names.entry(named.algo).averages_targets:
        named = dataclasses.replace(named, consensus="averaging")
        values["consensus"] = named.consensus
    for key, value in tuned.load(named.algo, named.task, named.consensus, named.agents).items():
        values.setdefault(key, _checked(key, value, f"tuned for {named.algo}"))
    if named.consensus == "averaging":
        values.setdefault("schedule", "matchings")
    config = Config(**values)
    _check_recurrence(config, origins)
    _check_trust_region(config, origins)
    _check_consensus(config, origins)
    _check_servers(config, origins)
    return config


def resolve_saved(origin: str, saved: Mapping[str, Any]) -> Config:
    """Build the `Config` of a run that was made before, from the settings that it kept.

    A setting that came after the run has its default, whatever is tuned for runs from now on.

    Raises:
        ConfigError: an unknown key or a bad value.
    """
    return resolve((origin, {**to_dict(Config()), **saved}))


def load_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of settings.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
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
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise ConfigError(f"-o {text}: the value is not valid YAML") from None


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain YAML types, in declaration order."""
    values = dataclasses.asdict(config)
    return {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in FIELDS}


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
    if config.consensus == "averaging" and config.beta is not None and config.beta >= 2.0:
        expected = "below 2, as consensus is averaging: beyond that, an activation takes two agents apart"
        raise _bad("beta", config.beta, expected, origins["beta"])


def _check_trust_region(config: Config, origins: Mapping[str, str]) -> None:
    if config.fisher_share > 1.0:
        expected = f"at most the {config.samples} samples of an iteration, num_envs times rollout_length"
        raise _bad("fisher_samples", config.fisher_samples, expected, origins["fisher_samples"])


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
        except (ValueError, OverflowError):
            raise _bad(key, value, "a number", origin) from None
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
        choices = FIELDS[key].metadata["choices"]
        raise _bad(key, value, "one of " + ", ".join(choices) if choices else names[kind], origin)
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
        if type(number) is int and abs(number) > _LARGEST_INTEGER:
            raise _bad(key, value, f"at most {_LARGEST_INTEGER}", origin)
        if limits["minimum"] is not None and number < limits["minimum"]:
            raise _bad(key, value, f"at least {limits['minimum']}", origin)
        if limits["maximum"] is not None and number > limits["maximum"]:
            raise _bad(key, value, f"at most {limits['maximum']}", origin)
        if limits["above"] is not None and number <= limits["above"]:
            raise _bad(key, value, f"above {limits['above']}", origin)


def _bad(key: str, value: Any, expected: str, origin: str, hint: str = "") -> ConfigError:
    return ConfigError(f"bad value {value!r} for {key!r} ({origin}): expected {expected}{hint}")
