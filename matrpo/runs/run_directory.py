"""The files of a run: settings, metrics, logs and checkpoints, each written by the one process it belongs to.

    runs/2026-11-21_navigation_matrpo_ring-12_s0/
      config.yaml           every setting, and the versions it ran with (comments: it is a valid --config file)
      cluster.yaml          where the processes are
      agents/03/            metrics.jsonl, log.txt, checkpoint-000120.safetensors and .json
      env/                  the same, of the environment server; of further ones, env-1/, env-2/, ...
      trainer/              the same, of an algorithm that trains centrally: what is needed to go on learning
      tensorboard/          one folder per process

Iterations count from 1; iteration 0 is the untrained state and has no checkpoint.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError
from matrpo.runs.environment_tail import EnvironmentTail
from matrpo.runs.process_directory import ProcessDirectory as ProcessDirectory
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_config import run_config
from matrpo.runs.storage import StorageError, write_crash_safely
from matrpo.settings import algorithm_names
from matrpo.settings.config import Config, DecentralizedConfig, RunConfig, load_file, resolve, to_dict
from matrpo.spaces import TaskSpec

_PROBE_BYTES = 1 << 20


@dataclass(frozen=True)
class ResumePoint:
    """Iteration from which a run can be resumed.

    Attributes:
        iteration: the last one that is kept; 0 if nothing can be.
        laggards: the newest checkpoint of each agent that has none of that iteration; 0 if it has none at all.
    """

    iteration: int
    laggards: dict[int, int]


class RunDirectory:
    """A run's folder and its settings. Use `create` or `open`.

    Attributes:
        path: the folder.
        config: the resolved settings.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: Path | None, config: Config, versions: Mapping[str, str]) -> RunDirectory:
        """Make the folder, probe that it can be written to, and store the settings.

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
        created = _missing_parents(path)
        try:
            path.mkdir(parents=True)
            run = cls(path, config)
            _probe(path / ".probe")
            run.store_config(versions)
        except FileExistsError:
            advice = "add --resume to continue it, or choose another --run"
            raise ConfigError(f"run directory {path} exists already: {advice}") from None
        except (OSError, StorageError) as error:
            _remove(created)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"cannot create run directory {path}: {reason}") from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run at `path`.

        Raises:
            ConfigError: there is none, or its settings are not valid.
        """
        file = path / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"{path} is not a run directory: it has no config.yaml")
        config = resolve((str(file), load_file(file)))
        if config.agents is None:
            raise ConfigError(f"{file} does not state the number of agents")
        return cls(path, run_config(config))

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

    def resume_point(self) -> ResumePoint:
        """Where the run can be resumed: at the latest iteration that all have, else with as few laggards as possible.

        The environment's checkpoint fixes the iteration; an agent that was dead for long continues from its own newest.
        """
        common = self.latest_common_iteration()
        if common:
            return ResumePoint(common, {})
        agents = {agent: self.agent(agent).checkpoint_iterations() for agent in range(self.num_agents)}
        points = []
        servers = [set(self.server(server).checkpoint_iterations()) for server in range(self.num_servers)]
        for iteration in sorted(set.intersection(*servers)):
            laggards = {agent: max(own, default=0) for agent, own in agents.items() if iteration not in own}
            if len(laggards) < len(agents) and all(newest < iteration for newest in laggards.values()):
                points.append(ResumePoint(iteration, laggards))
        return max(points, key=lambda point: (-len(point.laggards), point.iteration), default=ResumePoint(0, {}))

    def episode_stream(self, iteration: int, server: int = 0) -> int:
        """Number of the random stream of episodes in a server's checkpoint of `iteration`; 0 for a new run.

        Raises:
            ConfigError: the checkpoint cannot be read.
        """
        return int(self.server(server).read_checkpoint_meta(iteration).get("stream", 0)) if iteration else 0

    def check_checkpoints(self, iteration: int, spec: TaskSpec) -> None:
        """Check that every process's checkpoint of `iteration`, if it has one, belongs to this task and these networks.

        Raises:
            ConfigError: one does not; the text names it, what it holds and what was expected.
        """
        expected = identity(spec, self.config)
        for process, directory in self.processes().items():
            if iteration not in directory.checkpoint_iterations():
                continue
            found = directory.read_checkpoint_meta(iteration).get("belongs_to", {})
            for key, value in expected.items():
                if found.get(key) != value:
                    raise ConfigError(
                        f"checkpoint {iteration} of {process.name} in {self.path} does not fit: "
                        f"its {key} is {found.get(key)}, this run's is {value}"
                    )

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
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"run directory {self.path} is in use: another process trains it") from None
            yield
        finally:
            os.close(handle)

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
