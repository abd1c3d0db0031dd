"""`matrpo launch`: train, under the local supervisor, over ssh, on a Ray cluster, or in one process."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from setproctitle import setproctitle

from matrpo.errors import ConfigError, TaskError
from matrpo.faults.script import FaultScript, script_text
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.commands.options import (
    PATH,
    Given,
    Layer,
    SectionedCommand,
    resolve_layers,
    setting_layers,
    setting_options,
)
from matrpo.launch.commands.process import load_cluster
from matrpo.launch.commands.versions import versions
from matrpo.launch.engines.ssh import RemoteRun, Site
from matrpo.launch.processes.interrupts import Interrupts, stop_launcher
from matrpo.launch.processes.process import EXIT_INTERRUPTED, StopRequested
from matrpo.launch.processes.process_faults import FILE_NAME as FAULTS_NAME
from matrpo.launch.processes.restarts import Restarts
from matrpo.launch.processes.temporary_folder import parent_for_sockets
from matrpo.launch.tracking.child import followed
from matrpo.launch.tracking.trackers import check_tracker
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import ResumePoint, RunDirectory, new_identity
from matrpo.runs.storage import write_crash_safely
from matrpo.settings import algorithm_names
from matrpo.settings.config import FIELDS, RunConfig, to_dict
from matrpo.spaces import TaskSpec
from matrpo.standard_streams import drop_unwritable
from matrpo.topology import CommunicationGraph

SSH_COMMAND = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
"""The ssh command and its options: it never asks for a password, and a lost machine is noticed within 15 s."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: its settings are checked and its run directory exists."""

    run: RunDirectory
    graph: CommunicationGraph | None
    start: int
    laggards: dict[int, int]
    damaged: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class LaunchMode:
    """How the processes of a run are started: as children, all in this process, or on a Ray cluster.

    Attributes:
        in_process: all agents run in this process.
        restart: whether processes that are killed or fail are started again; None: as the transport suggests.
        ray: the processes run in the actors of a Ray cluster, which always are.
        ray_address: of the cluster; None starts one on this machine.
    """

    in_process: bool
    restart: bool | None
    ray: bool
    ray_address: str | None

    def restarts(self, transport: str) -> Restarts:
        """Which processes the supervisor starts again: over TCP a stranger's bytes may kill one, by libzmq's abort."""
        if self.restart is None:
            return Restarts.KILLED if transport == "tcp" else Restarts.NONE
        return Restarts.FAILED if self.restart else Restarts.NONE


@click.command(cls=SectionedCommand)
@setting_options
@click.option("--run", "path", type=PATH, metavar="DIR", help="The run directory (default: a new one in runs/).")
@click.option("--resume", is_flag=True, help="Continue the run in --run from its latest checkpoint.")
@click.option(
    "--restart/--no-restart",
    default=None,
    help="Start processes again that are killed or fail, or none. [over TCP those that are killed by a signal]",
)
@click.option("--faults", metavar="NAME|FILE", help="Let things fail by this script; `matrpo list faults` names some.")
@click.option("--in-process", is_flag=True, help="Run all agents in this one process, for debugging.")
@click.option(
    "--backend",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="What runs the processes: this launcher on this machine, or the actors of a Ray cluster.",
)
@click.option("--ray-address", metavar="ADDRESS", help="The Ray cluster to join [one on this machine, for the run].")
@click.option("--cluster", "cluster_file", type=PATH, metavar="FILE", help="Start this cluster; needs --ssh.")
@click.option("--ssh", is_flag=False, flag_value="", metavar="[USER@]", help="Start it over ssh, as this user.")
@click.option("--ssh-command", metavar="COMMAND", help=f"The ssh program and its options [{SSH_COMMAND}].")
@click.option("--remote-dir", type=PATH, metavar="DIR", help="The run directory on the machines [the same as here].")
@click.option("--remote-matrpo", metavar="PROGRAM", help="matrpo on the machines [matrpo].")
def launch(
    given: Given,
    path: Path | None,
    resume: bool,
    restart: bool | None,
    faults: str | None,
    in_process: bool,
    backend: str,
    ray_address: str | None,
    cluster_file: Path | None,
    ssh: str | None,
    ssh_command: str | None,
    remote_dir: Path | None,
    remote_matrpo: str | None,
) -> int:
    """Train: one process for each agent, one for the environment they share; by other algorithms all in one.

    Without any option: 12 agents on a ring learn cooperative navigation. Settings come from the defaults,
    what is tuned for the algorithm and the task, --preset, --config, and the options below, the later ones winning.
    """
    drop_unwritable("stdout", "stderr", on_broken_pipe=stop_launcher)
    if cluster_file is not None:
        insecure = bool(given.flags.pop("insecure"))
        if given or any((path, resume, faults, in_process)):
            raise ConfigError("launch --cluster takes its settings from the run directory: leave the others out")
        if ssh is None:
            raise ConfigError("launch --cluster starts processes over ssh: add --ssh")
        cluster = load_cluster(cluster_file, insecure)
        restarts = LaunchMode(in_process, restart, False, None).restarts("tcp")
        return _launch_remotely(cluster, _site(cluster_file, ssh, ssh_command, remote_dir, remote_matrpo), restarts)
    if any(option is not None for option in (ssh, ssh_command, remote_dir, remote_matrpo)):
        raise ConfigError("--ssh and its options start the processes of a cluster: name its file with --cluster")
    mode = LaunchMode(in_process, restart, backend == "ray", ray_address)
    _check_ray(mode, faults)
    layers = setting_layers(given)
    if not resume:
        return _begin(path, layers, faults, mode)
    if faults:
        raise ConfigError("--resume goes on with the fault script that the run began with: leave --faults out")
    if path is None:
        raise ConfigError("--resume continues the run in --run DIR: name it")
    run = RunDirectory.open(path)
    with run.lock():
        return _train(_continued(run, layers, mode), mode)


def _begin(path: Path | None, layers: list[Layer], faults: str | None, mode: LaunchMode) -> int:
    """Create a new run directory and train to the end; the exit status."""
    config = resolve_layers(layers)
    if mode.in_process:
        config = dataclasses.replace(config, env_servers=1)
    if algorithm_names.is_central(config.algo) and (faults or mode.restart or mode.ray):
        raise ConfigError(
            f"--faults, --restart and --backend ray are for processes: {config.algo} trains in one process"
        )
    graph = _checked(config, mode)
    script = _script(faults, graph, mode.in_process, config.env_servers)
    run = RunDirectory.create(path, config, versions())
    with run.lock():
        if script:
            write_crash_safely(run.path / FAULTS_NAME, script)
        return _train(Prepared(run, graph, 0, {}), mode)


def _check_ray(mode: LaunchMode, faults: str | None) -> None:
    if mode.ray_address is not None and not mode.ray:
        raise ConfigError("--ray-address names a Ray cluster: add --backend ray")
    if not mode.ray:
        return
    if mode.in_process or mode.restart is not None or faults:
        raise ConfigError("--backend ray starts again what fails: leave --in-process, --restart and --faults out")
    from matrpo.launch.engines.ray_backend import load_ray

    load_ray()


def _script(name: str | None, graph: CommunicationGraph | None, in_process: bool, num_servers: int) -> bytes | None:
    """Read a fault script and check that it fits the run; None without one."""
    if name is None or graph is None:
        return None
    if in_process:
        raise ConfigError("--faults: in one process there are no messages to lose: leave --in-process out")
    FaultScript.load(name, graph, num_servers)
    return script_text(name).encode()


def _site(file: Path, user: str, ssh_command: str | None, remote_dir: Path | None, remote_matrpo: str | None) -> Site:
    """How the machines of a cluster are reached, as the user has typed it."""
    if user and not user.endswith("@"):
        raise ConfigError(f"--ssh {user}: a user's name must end with @")
    ssh = shlex.split(ssh_command or SSH_COMMAND)
    if not ssh or shutil.which(ssh[0]) is None:
        raise ConfigError(f"--ssh-command: there is no program {ssh[0] if ssh else ''!r}")
    return Site(ssh, user, remote_dir or file.parent.absolute(), remote_matrpo or "matrpo")


def _launch_remotely(cluster: Cluster, site: Site, restarts: Restarts) -> int:
    """Start all processes of a cluster over ssh and stay until the last has ended; the exit status."""
    if not all(endpoint.startswith("tcp:") for endpoint in cluster.endpoints.values()):
        raise ConfigError(f"{cluster.file} is of a run on one machine; `matrpo cluster init` makes one for several")
    rule = RunDirectory.open(cluster.config.parent).config.on_agent_loss
    return RemoteRun(cluster, site, restarts, rule, lambda line: print(line, file=sys.stderr, flush=True)).run()


def _checked(config: RunConfig, mode: LaunchMode) -> CommunicationGraph | None:
    """Check the settings in combination, before any file or process is created.

    Returns:
        The graph that they name; None for an algorithm that trains centrally.
    """
    from matrpo.envs.registry import check_installed
    from matrpo.launch.processes.supervisor import check_ports, local_ports
    from matrpo.launch.wire.limits import check_limits

    check_device(config, mode)
    check_tracker(config.tracker)
    check_installed(config.task)
    _check_envs(config)
    if algorithm_names.is_central(config.algo):
        _check_central(config)
        return None
    graph = build_graph(config)
    if mode.ray:
        from matrpo.launch.engines.ray_backend import join_ray

        join_ray(mode.ray_address, config.agents + config.env_servers)
    elif not mode.in_process:
        parent_for_sockets()
        check_limits(graph, config.env_servers)
        if config.transport == "tcp":
            check_ports(local_ports(config.port, config.agents, config.env_servers))
    return graph


def check_device(config: RunConfig, mode: LaunchMode) -> None:
    """Check that there is a graphics card, if the networks are to learn on one.

    Raises:
        ConfigError: there is none.
    """
    if config.device != "cuda":
        return
    if mode.ray:
        raise ConfigError("--backend ray: its actors have no graphics card: leave --device cuda out")
    from matrpo.networks import device

    device.check_device(config.device)


def _check_envs(config: RunConfig) -> None:
    """Build an environment once and discard it, if settings ask for what some tasks cannot do."""
    from matrpo.envs.registry import make_env

    split = config.env_servers > 1 or config.env_workers is not None
    if split or config.episode_length is not None:
        first = 0 if split else None
        make_env(config.task, config.agents, 1, 0, first, episode_length=config.episode_length).close()


def _check_central(config: RunConfig) -> None:
    """Build a centrally trained algorithm once and discard it, so that it refuses settings that it cannot handle."""
    from matrpo.build import agents_are_alike, build_algorithm
    from matrpo.envs.build import build_envs
    from matrpo.networks.device import on_processor

    env = build_envs(dataclasses.replace(config, env_workers=None), 1, 0, alike=agents_are_alike(config))
    try:
        build_algorithm(env, on_processor(config))
    finally:
        env.close()


def _spec(config: RunConfig) -> TaskSpec:
    """The run's agents and spaces, as its algorithm has them."""
    from matrpo.envs.build import run_spec

    if algorithm_names.is_central(config.algo):
        from matrpo.build import agents_are_alike

        return run_spec(config, agents_are_alike(config))
    return run_spec(config)


def _continued(run: RunDirectory, layers: list[Layer], mode: LaunchMode) -> Prepared:
    """Prepare to resume a run, from the last iteration of which all its processes have a checkpoint."""
    stored = to_dict(run.config)
    config = resolve_layers([("the run", stored), *layers])
    changed = {key: value for key, value in to_dict(config).items() if value != stored[key]}
    for key, value in changed.items():
        if not FIELDS[key].metadata["resumable"]:
            raise ConfigError(f"--resume cannot change {key!r}: {run.path} has {stored[key]!r}, not {value!r}")
    if mode.in_process and run.num_servers > 1:
        raise ConfigError(f"{run.path} has {run.num_servers} environment servers: leave --in-process out")
    graph = _checked(config, mode)
    point = run.resume_point()
    start = point.iteration
    if point.refusal:
        raise ConfigError(f"cannot resume {run.path}: no iteration has a checkpoint of all processes: {point.refusal}")
    run.check_metrics()
    if start:
        _check_checkpoints(run, point, _spec(config))
    if start > config.iterations:
        done = start * config.samples
        raise ConfigError(f"bad value {config.steps} for 'steps': {run.path} has done {done}, expected at least that")
    run = RunDirectory(run.path, run_config(config), run.identity if start else new_identity())
    if changed and start < config.iterations:
        run.store_config(versions())
    run.rewind(start)
    return Prepared(run, graph, start, point.laggards, point.damaged)


def _check_checkpoints(run: RunDirectory, point: ResumePoint, spec: TaskSpec) -> None:
    """Check that what the processes will begin with is of this run."""
    run.check_checkpoints(point.iteration, spec)
    for agent, newest in point.laggards.items():
        if newest:
            run.check_checkpoint(ProcessId.agent(agent), newest, spec)


def _train(prepared: Prepared, mode: LaunchMode) -> int:
    """Train to the end; the exit status."""
    from matrpo.launch.screen.screen import make_screen

    setproctitle(" ".join(["matrpo", *sys.argv[1:]]))
    run, start = prepared.run, prepared.start
    screen = make_screen(run)
    if start >= run.config.iterations:
        screen.say(f"{run.path} is complete: it has {run.config.iterations} iterations; raise --steps to go on")
        return 0
    for line in prepared.damaged:
        screen.say(f"{line}; going on from iteration {start} instead")
    screen.say(f"{'continuing after iteration ' + str(start) if start else 'new run'} in {run.path}")
    for agent, newest in prepared.laggards.items():
        state = f"its checkpoint of iteration {newest}" if newest else "a new policy"
        screen.say(f"agent {agent} has no checkpoint of iteration {start}: it joins with {state}")
    with screen, followed(run, screen.say) as look_after_tracker:
        status = _run_to_end(prepared, mode, screen, look_after_tracker)
    if status == EXIT_INTERRUPTED:
        saved = run.resume_point().iteration
        go_on = f"go on with: matrpo launch --run {run.path} --resume"
        screen.say(f"stopped; {go_on}" if saved else "stopped; no iteration was saved by all processes")
    elif status == 0:
        screen.say(f"finished; evaluate with: matrpo eval {run.path}")
    return status


def _run_to_end(prepared: Prepared, mode: LaunchMode, screen: Any, look_after_tracker: Callable[[], None]) -> int:
    """Run all processes of a run, or the one that trains, to the end; the exit status."""
    run = prepared.run

    def tick() -> None:
        screen.tick()
        look_after_tracker()

    if mode.in_process or prepared.graph is None:
        return _train_in_process(run, prepared.start, screen.say, tick)
    if mode.ray:
        from matrpo.launch.engines.ray_backend import RayRun

        return RayRun(run, prepared.graph, screen.say).run(tick)
    from matrpo.launch.processes.supervisor import Supervisor

    restarts = mode.restarts(run.config.transport)
    return Supervisor(run, prepared.graph, restarts, screen.say).run(tick)


def _train_in_process(run: RunDirectory, start: int, say: Callable[[str], None], tick: Callable[[], None]) -> int:
    training: Any = None
    with Interrupts().counted() as interrupts:
        try:
            interrupts.raising = True
            from matrpo.training import make_training

            training = make_training(run, start)
            if remark := training.remark():
                say(remark)
            training.run(lambda: interrupts.count > 0, lambda _iteration: tick())
            interrupts.raising = False
        except (StopRequested, TaskError) as error:
            interrupts.raising = False
            if training is not None:
                training.save()
            if isinstance(error, TaskError):
                raise
            return EXIT_INTERRUPTED
        finally:
            if training is not None:
                training.close()
    return EXIT_INTERRUPTED if training.iteration < run.config.iterations else 0
