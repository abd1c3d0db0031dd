"""An experiment file: which runs make a figure or table of a paper, at which scale, and where each run's files are.

For example::

    title: what the figure is of
    source: the paper and the figure
    settings: of all runs
    panels:                 # one plot each; left out, there is one
      "KL step": { lines: ... or settings: ... }
    lines:                  # one curve each: what differs
      MATRPO: {}
      MAPPO: { algo: mappo }
    scales:                 # how much of it
      smoke: { seeds: 1, episodes: 2, settings: { steps: 4000 } }
      small: { seeds: 3, settings: { steps: 1000000 } }
      paper: { seeds: 5, settings: { steps: 5000000 } }

The later win: settings, the panel's, the line's, the scale's. A finished run is evaluated over `episodes`, 100 if the
scale does not say. Lines that come to the same settings share their runs. The key `faults` in a line names a fault
script: its runs are of many processes, the others in one process, to the same bits.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrpo.envs.registry import check_installed
from matrpo.errors import ConfigError, did_you_mean
from matrpo.faults.script import FaultScript
from matrpo.launch.commands.options import resolve_layers
from matrpo.runs.graph_settings import build_graph
from matrpo.settings import algorithm_names
from matrpo.settings.config import RunConfig, load_file

FOLDER = Path(__file__).parents[1] / "figures"
"""The experiments that ship with matrpo."""

SCALES = ("smoke", "small", "paper")
_KEYS = {"title", "source", "settings", "panels", "lines", "scales"}
_COUNTS = {"seeds": 1, "episodes": 100}


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment.

    Attributes:
        panel, line: names of the plot and of the curve that it belongs to.
        seed: from 0.
        settings: every setting that is not the default.
        faults: the fault script, for a run of many processes; None for one in one process.
        episodes: that it is evaluated over when it is finished.
        path: its run directory, which runs of the same settings share.
    """

    panel: str
    line: str
    seed: int
    settings: dict[str, Any]
    faults: str | None
    episodes: int
    path: Path

    @property
    def record_path(self) -> Path:
        """The file that it leaves when it is done."""
        return self.path.parent.parent / "records" / f"{self.path.name}.json"

    @property
    def name(self) -> str:
        """What tables of runs call it."""
        return f"{self.panel}: {self.line}" if self.panel else self.line

    @property
    def config(self) -> RunConfig:
        """Its settings, resolved.

        Raises:
            ConfigError: one is not valid.
        """
        return resolve_layers([(f"run {self.path.name}", self.settings)])

    def check(self) -> None:
        """Check that it can be launched.

        Raises:
            ConfigError: a setting is not valid, what the task needs is not installed, or there is no such fault script
                for this run.
        """
        config = self.config
        check_installed(config.task)
        if self.faults and algorithm_names.is_central(config.algo):
            raise ConfigError(f"run {self.path.name}: faults are for processes, {config.algo} trains in one")
        if self.faults:
            FaultScript.load(self.faults, build_graph(config), config.env_servers)


@dataclass(frozen=True)
class Experiment:
    """An experiment file's content at one scale.

    Attributes:
        name: of the file, without its ending.
        title, source: what it shows, and whose it is.
        scale: which of the file's scales this is.
        panels: for each plot its lines: for each curve its settings.
        seeds: runs of each line.
        episodes: that each run is evaluated over.
    """

    name: str
    title: str
    source: str
    scale: str
    panels: dict[str, dict[str, dict[str, Any]]]
    seeds: int
    episodes: int

    @classmethod
    def load(cls, path: Path, scale: str) -> Experiment:
        """Read an experiment file, or one that ships with matrpo, by its name.

        Raises:
            ConfigError: there is no such file, a key is missing or unknown, or a run's settings are not valid.
        """
        names = [shipped_path.stem for shipped_path in shipped()]
        if not path.is_file():
            if str(path) not in names:
                hint = did_you_mean(str(path), names) or "; `matrpo experiment list` names them"
                raise ConfigError(f"there is no file {path}, and no experiment of that name{hint}")
            path = FOLDER / f"{path}.yaml"
        content = load_file(path)
        if unknown := sorted(map(str, set(content) - _KEYS)):
            raise ConfigError(f"{path}: unknown key {unknown[0]!r}; expected {', '.join(sorted(_KEYS))}")
        scales = _mapping(path, content, "scales")
        if scale not in scales:
            raise ConfigError(f"{path} has no scale {scale!r} (--scale): it has {', '.join(scales)}")
        chosen = scales[scale] or {}
        counts = _counts(path, scale, chosen)
        lines = content.get("lines")
        panels = {}
        for panel, parts in (content.get("panels") or {"": {}}).items():
            own = parts.get("lines") or lines
            if not isinstance(own, Mapping) or not own:
                raise ConfigError(f"{path}: no lines{f' in panel {panel!r}' if panel else ''}")
            layers = (content.get("settings"), parts.get("settings"))
            panels[str(panel)] = {
                str(line): _merged(*layers, changes, chosen.get("settings")) for line, changes in own.items()
            }
        title, source = (str(content.get(key, "")) for key in ("title", "source"))
        return cls(path.stem, title, source, scale, panels, **counts)

    def runs(self, folder: Path) -> Iterator[PlannedRun]:
        """All runs, seed by seed, so that every line has its first before any has its second.

        Args:
            folder: of the experiment: run directories are in `runs` there, what is kept of each in `records`.

        Raises:
            ConfigError: a setting is not valid.
        """
        paths: dict[tuple[RunConfig, str | None], Path] = {}
        for seed in range(self.seeds):
            for panel, lines in self.panels.items():
                for line, settings in lines.items():
                    own = {**settings, "seed": seed}
                    faults = own.pop("faults", None)
                    path = folder / "runs" / _slug(f"{panel} {line} s{seed}")
                    run = PlannedRun(panel, line, seed, own, faults, self.episodes, path)
                    yield dataclasses.replace(run, path=paths.setdefault((run.config, faults), path))


def shipped() -> list[Path]:
    """The experiment files that ship with matrpo."""
    return sorted(FOLDER.glob("*.yaml"))


def _merged(*layers: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for layer in layers if layer for key, value in layer.items()}


def _mapping(path: Path, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{path}: {key!r} must be a mapping, not {value!r}")
    return value


def _counts(path: Path, scale: str, chosen: Mapping[str, Any]) -> dict[str, int]:
    if unknown := sorted(map(str, set(chosen) - {"settings", *_COUNTS})):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r} in scale {scale!r}; expected episodes, seeds, settings")
    counts = {**_COUNTS, **{key: chosen[key] for key in _COUNTS if key in chosen}}
    for key, count in counts.items():
        if type(count) is not int or count < 1:
            raise ConfigError(f"{path}: {key!r} of scale {scale!r} must be a whole number of at least 1, not {count!r}")
    return counts


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text.strip())
