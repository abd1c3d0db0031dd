"""The files of a run: settings, metrics, logs and checkpoints, each written by the one process it belongs to::

    runs/2026-11-21_navigation_matrpo_ring-12_s0/
      config.yaml           every setting, and the versions it ran with (comments: it is a valid --config file)
      cluster.yaml          where the processes are
      agents/03/            metrics.jsonl, log.txt, checkpoint-000120.safetensors and .json, and in origin-000120.json
                            the checkpoint's checksums, run and settings
      env/                  the same, of the environment server; of further ones, env-1/, env-2/, ...
      trainer/              the same, of an algorithm that trains centrally: what is needed to go on learning
      tensorboard/          one folder per process

Iterations count from 1; iteration 0 is the untrained state and has no checkpoint. A run's identity is made with its
directory and kept by its checkpoints, and by the run id in cluster.yaml: a copy of the directory is of the same run.
"""

from __future__ import annotations

import datetime
import logging
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError
from matrpo.runs.environment_tail import EnvironmentTail
from matrpo.runs.process_directory import DamagedCheckpointError
from matrpo.runs.process_directory import ProcessDirectory as ProcessDirectory
from matrpo.runs.process_id import ProcessId
from matrpo.runs.resume_point import ResumePoint as ResumePoint
from matrpo.runs.resume_point import find_resume_point
from matrpo.runs.run_config import run_config
from matrpo.runs.storage import StorageError, locked, write_crash_safely
from matrpo.settings import algorithm_names
from matrpo.settings.config import FIELDS, Config, DecentralizedConfig, RunConfig, load_file, resolve_saved, to_dict
from matrpo.spaces import TaskSpec

_PROBE_BYTES = 1 << 20
_LOG = logging.getLogger(__name__)


class RunDirectory:
    """A run's folder and its settings. Use `create` or `open`.

    Attributes:
        path: the folder.
        config: the resolved settings.
        identity: the run's, which its checkpoints have; None if it is not known, or of a run that has none.
    """

    def __init__(self, path: Path, config: RunConfig, identity: str | None = None) -> None:
        self.path = path
        self.config = config
        self.identity = identity
        self._settings = _lasting(config)

    @classmethod
    def create(cls, path: Path | None, config: Config, versions: Mapping[str, str]) -> RunDirectory:
        """Make the folder, with the settings in it, all at once.

        Args:
            path: where; by default a new folder in `runs/` whose name says what runs.
            config: the settings; what depends on the task and on the graph is resolved here.
            versions: the version of each package that matters.

        Raises:
            ConfigError: the folder exists, or the disk is full or read-only, or there is no such task or graph. Nothing
                is left behind.
        """
        config = run_config(config)
        path = path or _default_path(config)
        exists = f"run directory {path} exists already: add --resume to continue it, or choose another --run"
        if path.exists():
            raise ConfigError(exists)
        draft = path.parent / f".{path.name}-{secrets.token_hex(4)}"
        created = [draft, *_missing_parents(path)[1:]]
        try:
            draft.mkdir(parents=True)
            _probe(draft / ".probe")
            cls(draft, config).store_config(versions)
            draft.rename(path)  # A run that is killed before has no folder, after it has settings.
        except (OSError, StorageError) as error:
            _remove(created)
            if path.exists():
                raise ConfigError(exists) from None
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"cannot create run directory {path}: {reason}") from None
        except BaseException:
            _remove(created)
            raise
        return cls(path, config, new_identity())

    @classmethod
    def open(cls, path: Path, identity: str | None = None) -> RunDirectory:
        """The run at `path`.

        Args:
            path: the folder.
            identity: the run's, as a cluster file says; None takes that of the checkpoints that are checked first.

        Raises:
            ConfigError: there is none, or its settings are not valid.
        """
        file = path / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"{path} is not a run directory: it has no config.yaml")
        config = resolve_saved(str(file), load_file(file))
        if config.agents is None:
            raise ConfigError(f"{file} does not state the number of agents")
        return cls(path, run_config(config), identity)

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.config.agents

    @property
    def decentralized(self) -> DecentralizedConfig:
        """The settings, if the algorithm is decentralised.

        Raises:
            ConfigError: it trains centrally.
        """
        if not isinstance(self.config, DecentralizedConfig):
            raise ConfigError(f"{self.path} is of {self.config.algo}, which trains in one process")
        return self.config

    @property
    def num_servers(self) -> int:
        """Number of environment servers; a centralised algorithm simulates its environments itself."""
        return 1 if algorithm_names.is_central(self.config.algo) else self.config.env_servers

    def directory(self, process: ProcessId) -> ProcessDirectory:
        """The files of a process."""
        return ProcessDirectory(self.path / process.folder)

    @property
    def env(self) -> ProcessDirectory:
        """The files of the environment server; of the first one if there are several."""
        return self.server(0)

    def server(self, server: int) -> ProcessDirectory:
        """The files of environment server number `server`."""
        return self.directory(ProcessId.server(server))

    def environment_tail(self) -> EnvironmentTail:
        """A reader that follows the environment's metrics, merged over all servers."""
        return EnvironmentTail([self.server(server).metrics_path for server in range(self.num_servers)])

    def environment_metrics(self) -> list[dict[str, Any]]:
        """The environment's lines of metrics, merged over all servers."""
        return self.environment_tail().poll()

    @property
    def trainer(self) -> ProcessDirectory:
        """The files of an algorithm that trains centrally."""
        return self.directory(ProcessId.trainer())

    def agent(self, agent: int) -> ProcessDirectory:
        """The files of agent number `agent`."""
        return self.directory(ProcessId.agent(agent))

    def processes(self) -> dict[ProcessId, ProcessDirectory]:
        """Every process's files, in order, as if the environment, the trainer and each agent were processes."""
        servers = [ProcessId.server(server) for server in range(self.num_servers)]
        trainer = [ProcessId.trainer()] if algorithm_names.is_central(self.config.algo) else []
        agents = [ProcessId.agent(agent) for agent in range(self.num_agents)]
        return {process: self.directory(process) for process in (*servers, *trainer, *agents)}

    def tensorboard(self, process: ProcessDirectory) -> Path:
        """The folder of event files of one process."""
        name = process.path.name if process.path.parent == self.path else f"agent-{process.path.name}"
        return self.path / "tensorboard" / name

    def store_config(self, versions: Mapping[str, str]) -> None:
        """Write config.yaml from `config`.

        Raises:
            StorageError: the disk is full or read-only.
        """
        header = "".join(f"# {name} {version}\n" for name, version in versions.items())
        text = header + yaml.safe_dump(to_dict(self.config), sort_keys=False)
        write_crash_safely(self.path / "config.yaml", text.encode())

    def latest_common_iteration(self) -> int:
        """The largest iteration whose checkpoint every process has; 0 if there is none."""
        sets = [set(process.checkpoint_iterations()) for process in self.processes().values()]
        return max(set.intersection(*sets), default=0)

    def resume_point(self, laggards: bool = True) -> ResumePoint:
        """Where the run can be resumed: see `find_resume_point`. A central algorithm needs everybody's checkpoint."""
        laggards = laggards and not algorithm_names.is_central(self.config.algo)
        first_due = min(self.config.checkpoint_every, self.config.iterations)
        return find_resume_point(self.processes(), laggards, first_due)

    def newest_checkpoint(self, process: ProcessId) -> int:
        """The newest whole checkpoint of a process that continues by itself; 0 if it has none at all.

        Raises:
            ConfigError: it is of another run, or all that there are are damaged.
        """
        directory, damaged = self.directory(process), list[str]()
        for iteration in reversed(directory.checkpoint_iterations()):
            try:
                directory.load_checkpoint(iteration)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
                continue
            self._check_origin(process, iteration)
            for line in damaged:
                _LOG.warning("%s; going on from that of iteration %d", line, iteration)
            return iteration
        if damaged:
            raise ConfigError(f"{damaged[0]}; {process.name} has no older one")
        return 0

    def episode_stream(self, iteration: int, server: int = 0) -> int:
        """Number of the random stream of episodes in a server's checkpoint of `iteration`; 0 for a new run.

        Raises:
            ConfigError: the checkpoint cannot be read.
        """
        return int(self.server(server).read_checkpoint_meta(iteration).get("stream", 0)) if iteration else 0

    def check_checkpoints(self, iteration: int, spec: TaskSpec) -> None:
        """Check every process's checkpoint of `iteration`, if it has one: see `check_checkpoint`.

        All must be of the run that the environment's is of.

        Raises:
            ConfigError: one does not fit; the text names it, what it holds and what was expected.
        """
        having = [who for who, files in self.processes().items() if iteration in files.checkpoint_iterations()]
        runs = {who: (self.directory(who).read_origin(iteration) or {}).get("run") for who in having}
        expected = next(iter(runs.values()), None)
        self.identity = self.identity or expected
        for process, run in runs.items():
            self.check_checkpoint(process, iteration, spec, known=run is not None)
            if run != expected:
                raise self._foreign(process, iteration, expected)

    def check_checkpoint(self, process: ProcessId, iteration: int, spec: TaskSpec, known: bool = True) -> None:
        """Check that a process's checkpoint of `iteration` belongs to this run, this task and these networks.

        Args:
            process: which.
            iteration: of the checkpoint.
            spec: the task.
            known: the checkpoint says of which run it is, or has to.

        Raises:
            ConfigError: it does not fit; the text names it, what it holds and what was expected.
        """
        found = self.directory(process).read_checkpoint_meta(iteration).get("belongs_to", {})
        self._check_fit(process, iteration, found, identity(spec, self.config))
        if known:
            self._check_origin(process, iteration)

    def origin(self, process: ProcessDirectory) -> dict[str, Any]:
        """What a checkpoint of a process says of where it comes from: run, folder, and settings that cannot change."""
        folder = str(process.path.relative_to(self.path))
        return {"run": self.identity, "process": folder, "settings": self._settings}

    def _check_origin(self, process: ProcessId, iteration: int) -> None:
        """Check that a checkpoint is of this run, if its identity is known, of the process, and of these settings."""
        directory = self.directory(process)
        own, found = self.origin(directory), directory.read_origin(iteration) or {}
        if self.identity is not None and found.get("run") != self.identity:
            raise self._foreign(process, iteration, self.identity)
        found = own | found
        expected = {key: value for key, value in self._settings.items() if key in found["settings"]}
        self._check_fit(process, iteration, found, {"process": own["process"]})
        self._check_fit(process, iteration, found["settings"], expected)

    def _foreign(self, process: ProcessId, iteration: int, expected: str | None) -> ConfigError:
        directory = self.directory(process)
        found = directory.read_origin(iteration) or {}
        theirs, ours = _of_run(found.get("run"), found.get("settings", {})), _of_run(expected, self._settings)
        return ConfigError(
            f"checkpoint {iteration} of {process.name} in {directory.path} is {theirs}, expected one {ours}: "
            "move away what another run has left there"
        )

    def _check_fit(
        self, process: ProcessId, iteration: int, found: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        for key, value in expected.items():
            if found.get(key) != value:
                raise ConfigError(
                    f"checkpoint {iteration} of {process.name} in {self.path} does not fit: "
                    f"its {key} is {found.get(key)}, this run's is {value}"
                )

    def check_metrics(self) -> None:
        """Check that every process's metrics can be read.

        Raises:
            ConfigError: some cannot.
        """
        for process in self.processes().values():
            process.read_metrics()

    def rewind(self, iteration: int) -> None:
        """Roll all processes back to `iteration`: delete their later lines and checkpoints.

        Raises:
            StorageError: the disk is full or read-only.
        """
        for process in self.processes().values():
            process.rewind(iteration)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run: no other training can continue it meanwhile. The system releases the lock with the process.

        Raises:
            ConfigError: the run is locked by another process.
        """
        with locked(self.path, f"run directory {self.path} is in use: another process trains it"):
            yield

    def is_locked(self) -> bool:
        """Whether a training on this machine has locked the run."""
        try:
            with self.lock():
                return False
        except ConfigError:
            return True


def identity(spec: TaskSpec, config: Config) -> dict[str, Any]:
    """Identity of a checkpoint, to match with the run: algorithm, task and network sizes, as JSON gives it back."""
    return {
        "algo": config.algo,
        "task": spec.name,
        "agents": list(spec.agents),
        "observation_sizes": list(spec.observation_sizes),
        "action_spaces": [repr(space) for space in spec.action_spaces],
        "hidden_sizes": list(config.hidden_sizes),
    }


def _of_run(run: str | None, settings: Mapping[str, Any]) -> str:
    return "of an unknown run" if run is None else f"of run {run} (seed {settings.get('seed')})"


def _lasting(config: Config) -> dict[str, Any]:
    """The settings that a run keeps for ever. Where a file lies that one of them names is not among them."""
    values = {key: value for key, value in to_dict(config).items() if not FIELDS[key].metadata["resumable"]}
    return {key: value for key, value in values.items() if not str(value).startswith("/")}


def new_identity() -> str:
    """A new run's identity."""
    return secrets.token_hex(4)


def _default_path(config: Config) -> Path:
    date = datetime.date.today().isoformat()
    topology = f"{Path(config.topology).stem}-" if algorithm_names.entry(config.algo).graph else ""
    algo = config.algo.rpartition("/")[2]
    name = f"{date}_{config.task}_{algo}_{topology}{config.agents}_s{config.seed}"
    stem = Path("runs") / re.sub(r"[^\w.-]+", "-", name)
    path, number = stem, 2
    while path.exists():
        path, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return path


def _missing_parents(path: Path) -> list[Path]:
    """Folders that `path.mkdir(parents=True)` will make, the deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _probe(path: Path) -> None:
    write_crash_safely(path, bytes(_PROBE_BYTES))
    path.unlink()


def _remove(created: list[Path]) -> None:
    if created:
        shutil.rmtree(created[0], ignore_errors=True)
    for folder in created[1:]:
        try:
            folder.rmdir()
        except OSError:
            return
