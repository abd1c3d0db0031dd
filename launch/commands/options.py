"""Every setting as an option of the command line, and where the values of a run come from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import click

from matrpo.envs.registry import canonical_name, resolve_num_agents
from matrpo.errors import ConfigError
from matrpo.settings import algorithm_names
from matrpo.settings.config import FIELDS, HEADINGS, RunConfig, load_file, parse_override, resolve
from matrpo.settings.sections import ConnectionSettings, ConsensusSettings

Layer = tuple[str, Mapping[str, Any]]

_TYPED = ("command line", "-o")
"""Origins of settings that the user has typed: only these must all be of use to the algorithm."""

PATH = click.Path(path_type=Path)
"""The type of an option that names a file or a folder."""

_FILE = click.option("--config", "file", type=PATH, metavar="FILE", help="YAML file of settings.")
_PRESET = click.option("--preset", metavar="NAME", help="Settings that ship with matrpo, such as `paper`.")
_OVERRIDES = click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting; may be repeated.")


class SectionedCommand(click.Command):
    """A command whose help page lists the settings under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the settings, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*HEADINGS.values(), "Options")}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                sections[HEADINGS.get(param.name or "", "Options")].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


@dataclasses.dataclass(frozen=True)
class Given:
    """The settings that a command line gives, by source.

    Attributes:
        file: of `--config`.
        preset: of `--preset`.
        overrides: of `-o`.
        flags: each setting's own flag, None where it is not given.
    """

    file: Path | None
    preset: str | None
    overrides: tuple[str, ...]
    flags: dict[str, Any]

    def __bool__(self) -> bool:
        """Whether any setting is given."""
        values = (self.file, self.preset, self.overrides or None, *self.flags.values())
        return any(value is not None for value in values)


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every setting, and those for files of settings; they arrive as `given`, one `Given`."""

    @functools.wraps(command)
    def with_settings(file: Path | None, preset: str | None, overrides: tuple[str, ...], **options: Any) -> Any:
        flags = {name: options.pop(name) for name in FIELDS}
        return command(given=Given(file, preset, overrides, flags), **options)

    return _FILE(_PRESET(_OVERRIDES(_flags(with_settings))))


def _flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, field in reversed(FIELDS.items()):
        flag = "--" + name.replace("_", "-")
        text = _help(field)
        if isinstance(field.default, bool):
            flags = f"{flag}/--no-{name.replace('_', '-')}"
            option = click.option(flags, name, default=None, help=text)
        else:
            option = click.option(flag, name, metavar=_metavar(field), help=text)
        command = option(command)
    return command


def setting_layers(given: Given) -> list[Layer]:
    """The layers of settings of a command line, in increasing precedence: preset, config file, flags and -o.

    Raises:
        ConfigError: one cannot be read.
    """
    layers: list[Layer] = []
    if given.file:
        layers.append((str(given.file), load_file(given.file)))
    flags, changes = _TYPED
    layers.append((flags, dict(_parsed(name, value) for name, value in given.flags.items() if value is not None)))
    layers.append((changes, dict(map(parse_override, given.overrides))))
    if given.preset:
        from matrpo.settings import presets

        # The other settings may fit together only with the preset's.
        which = [(origin, {key: layer[key] for key in ("task", "agents") if key in layer}) for origin, layer in layers]
        config = resolve(*which)
        agents = resolve_num_agents(config.task, config.agents)
        layers.insert(0, (f"preset {given.preset}", presets.load(given.preset, config.task, agents)))
    return layers


def resolve_layers(layers: list[Layer]) -> RunConfig:
    """Merge layers into the run's settings, with number of agents resolved, the task's full name, and absolute paths.

    Raises:
        ConfigError: an unknown key or a bad value, or the user has typed a setting that the algorithm does not use.
    """
    config = resolve(*layers)
    for origin, layer in layers:
        if origin in _TYPED:
            check_used(config.algo, layer, origin)
    agents = resolve_num_agents(config.task, config.agents)
    topology = config.topology
    if agents == 2 and not any("topology" in values for _, values in layers):
        topology = "line"  # two agents make no ring
    if Path(topology).is_file():
        topology = str(Path(topology).resolve())
    algo, task = algorithm_names.canonical_name(config.algo), canonical_name(config.task)
    return RunConfig.of(dataclasses.replace(config, algo=algo, task=task, topology=topology), agents)


def check_used(algo: str, settings: Iterable[str], origin: str) -> None:
    """Check that an algorithm uses all settings that the user gave.

    Raises:
        ConfigError: one of them changes nothing.
    """
    read = settings_read(algo)
    for key in settings:
        if key not in read:
            raise ConfigError(f"{algo} does not use the setting {key!r} ({origin}): leave it out")


def settings_read(algo: str) -> AbstractSet[str]:
    """The settings that an algorithm declares; a user's own may use all but those of decentralised runs alone."""
    if algo in algorithm_names.ALGORITHMS:
        found: frozenset[str] = algorithm_names.ALGORITHMS[algo].load().settings_read
        return found
    decentralized = ConsensusSettings.heading, ConnectionSettings.heading
    return {key for key, heading in HEADINGS.items() if heading not in decentralized} - {"topology"}


def _parsed(name: str, value: Any) -> tuple[str, Any]:
    """Parse an option's value as YAML, as in the config file; settings of type text stay as they are."""
    default = FIELDS[name].default
    if isinstance(value, bool) or isinstance(default, str):
        return name, value
    if isinstance(default, tuple) and not value.startswith("["):
        value = f"[{value}]"
    try:
        return parse_override(f"{name}={value}")
    except ConfigError:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: the value is not valid YAML") from None


def _help(field: dataclasses.Field[Any]) -> str:
    text = str(field.metadata["help"])
    if field.default is None:
        return text
    default = field.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    elif isinstance(default, tuple):
        default = ",".join(map(str, default))
    return f"{text} [{default}]"


def _metavar(field: dataclasses.Field[Any]) -> str:
    if field.metadata["choices"]:
        return "|".join(field.metadata["choices"])
    if isinstance(field.default, str):
        return "NAME"
    return "N,..." if isinstance(field.default, tuple) else "X" if isinstance(field.default, float) else "N"
