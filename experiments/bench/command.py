"""`matrpo bench NAME`: benchmarks of this installation, each figure beside that of another library or a hard limit."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matrpo.errors import ConfigError
from matrpo.launch.commands.options import PATH
from matrpo.settings.config import parse_override

if TYPE_CHECKING:
    from matrpo.experiments.bench.report import Report

Command = Callable[..., None]


class Counts(click.ParamType[tuple[int, ...]]):
    """A click type: positive integers, separated by commas."""

    name = "N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse the integers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(map(int, str(value).split(",")))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is not a list of positive integers", param, ctx)
        return numbers


_COUNT = click.IntRange(min=1)
_RING = click.IntRange(min=3)

_changes = click.option(
    "-o",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of a run; may be repeated.",
    callback=lambda _context, _option, texts: dict(map(parse_override, texts)),
)


def _shared(command: Command) -> Command:
    """Add the options that all benchmarks share."""
    command = click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works; the figures mean little.")(
        command
    )
    return click.option(
        "--json", "path", type=PATH, metavar="FILE", help="Where the figures go [default: bench-NAME.json]."
    )(command)


@click.group()
def bench() -> None:
    """Measure this installation; print a table and write a JSON file.

    Everything runs on one thread per process.
    """
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    # As Ctrl-C does, so that no launched run outlives its benchmark.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@bench.command()
@click.option("--agents", type=Counts(), default="3,12", show_default=True, help="Numbers of agents.")
@click.option("--activations", type=Counts(), default="100,500", show_default=True, help="Link activations K.")
@click.option("--training", type=click.IntRange(min=0), default=3, show_default=True, help="Iterations before.")
@_changes
@_shared
def solver(
    agents: tuple[int, ...],
    activations: tuple[int, ...],
    training: int,
    changes: dict[str, Any],
    path: Path | None,
    quick: bool,
) -> None:
    """Recycled conjugate directions against CG at every activation.

    The default sizes take about ten minutes, nearly all of them CG's.
    """
    if min(agents) < 3:
        raise ConfigError(f"--agents {min(agents)}: a ring needs at least 3")
    _measure("solver", path, quick, agents, activations, training, changes)


@bench.command()
@click.option("--agents", type=Counts(), default="3,12", show_default=True, help="Numbers of agents.")
@click.option("--launched", type=_RING, default=12, show_default=True, help="Agents of the launched run.")
@_shared
def rollout(agents: tuple[int, ...], launched: int, path: Path | None, quick: bool) -> None:
    """Environment steps per second against mpe2."""
    _measure("rollout", path, quick, agents, launched)


@bench.command()
@_shared
def envs(path: Path | None, quick: bool) -> None:
    """Batched particle tasks against mpe2 and vmas (extra: bench)."""
    _measure("envs", path, quick)


@bench.command()
@click.option("--agents", type=_COUNT, default=12, show_default=True, help="N of the messages.")
@click.option("--samples", type=_COUNT, default=10_000, show_default=True, help="M of the messages.")
@_shared
def wire(agents: int, samples: int, path: Path | None, quick: bool) -> None:
    """Messages between neighbours against bare sockets."""
    _measure("wire", path, quick, agents, samples)


@bench.command()
@click.option("--agents", type=_RING, default=12, show_default=True, help="Number of agents.")
@click.option("--repeats", type=_COUNT, default=3, show_default=True, help="Launches and imports.")
@_shared
def startup(agents: int, repeats: int, path: Path | None, quick: bool) -> None:
    """Time until all processes are ready against one import of torch; memory per agent."""
    _measure("live.startup", path, quick, agents, repeats)


@bench.command()
@click.option("--agents", type=Counts(), default="3,6,12,24,48", show_default=True, help="Numbers of agents.")
@click.option("--topology", default="ring", show_default=True, help="Communication graph.")
@click.option("--iterations", type=_COUNT, default=2, show_default=True, help="Measured iterations.")
@click.option("--activations-per-link", type=_COUNT, default=36, show_default=True, help="K over the number of links.")
@_changes
@_shared
def scaling(
    agents: tuple[int, ...],
    topology: str,
    iterations: int,
    activations_per_link: int,
    changes: dict[str, Any],
    path: Path | None,
    quick: bool,
) -> None:
    """Time, processor time, traffic and memory of launched runs by the number of agents, and how well the cost model
    of `matrpo plan`, fitted to the small ones, predicts the large ones.

    The default sizes take about ten minutes on two cores. What --json writes is what `matrpo plan --constants` reads.
    """
    _measure("live.scaling", path, quick, agents, topology, iterations, activations_per_link, changes)


@bench.command()
@click.option(
    "--iterations", type=_COUNT, default=1, show_default=True, help="Measured ones of Table III, on a device."
)
@_shared
def device(iterations: int, path: Path | None, quick: bool) -> None:
    """Seconds of an iteration, phase by phase, on a graphics card beside the processor: MATRPO's and MAPPO's.

    The default sizes take a few minutes, most of them Table III's. Where torch sees no CUDA device the processor's half
    is measured alone.
    """
    _measure("device", path, quick, iterations)


@bench.command()
@click.option(
    "--task",
    "tasks",
    multiple=True,
    default=("mamujoco/HalfCheetah-2x3", "mamujoco/Humanoid-9|8"),
    show_default=True,
    help="A MuJoCo task of two agents; may be given several times.",
)
@click.option("--repeats", type=_COUNT, default=3, show_default=True, help="Runs with one server, and with two.")
@click.option("--iterations", type=_COUNT, default=4, show_default=True, help="Measured iterations of a run.")
@_shared
def shards(tasks: tuple[str, ...], repeats: int, iterations: int, path: Path | None, quick: bool) -> None:
    """Environment steps per second with two environment servers against one (extra: mamujoco)."""
    _measure("live.shards", path, quick, tasks, repeats, iterations)


@bench.command()
@click.option("--agents", type=click.IntRange(min=5), default=6, show_default=True, help="Agents on a ring.")
@click.option("--trials", type=_COUNT, default=20, show_default=True, help="Kills, stops, and pulled cables.")
@_shared
def recovery(agents: int, trials: int, path: Path | None, quick: bool) -> None:
    """Seconds until a dead agent is noticed and until it is back, and what its death costs the others."""
    _measure("live.recovery", path, quick, agents, trials)


@bench.command()
@click.option("--agents", type=_RING, default=6, show_default=True, help="Agents on a ring.")
@click.option("--iterations", type=_COUNT, default=5, show_default=True, help="Measured iterations of a run.")
@_shared
def loss(agents: int, iterations: int, path: Path | None, quick: bool) -> None:
    """Seconds of an iteration when messages between neighbours are lost."""
    _measure("live.loss", path, quick, agents, iterations)


@bench.command()
@click.option("--repeats", type=_COUNT, default=3, show_default=True, help="Runs of each algorithm.")
@click.option("--iterations", type=_COUNT, help="Measured iterations of a run. [10; with --jaxmarl 30]")
@click.option("--jaxmarl", type=PATH, metavar="DIR", help="Compare with the baselines in this checkout of JaxMARL.")
@click.option(
    "--jaxmarl-python",
    type=PATH,
    metavar="PROGRAM",
    help="The Python that has what JaxMARL imports. [the checkout's .venv/bin/python, or else this one]",
)
@_shared
def throughput(
    repeats: int,
    iterations: int | None,
    jaxmarl: Path | None,
    jaxmarl_python: Path | None,
    path: Path | None,
    quick: bool,
) -> None:
    """CPU seconds and memory of whole training by HAPPO, HATRPO and MAPPO against HARL's own code.

    With --jaxmarl: speed, CPU seconds, memory and return of training by IPPO and MAPPO with shared parameters against
    JaxMARL's own scripts, run here in turn, with their settings. JAX uses all cores. The file is bench-jaxmarl.json.
    """
    if jaxmarl is None:
        if jaxmarl_python is not None:
            raise ConfigError("--jaxmarl-python is for --jaxmarl DIR, the checkout to compare with")
        _measure("throughput", path, quick, repeats, iterations or 10)
    else:
        _measure("jaxmarl", path, quick, repeats, iterations or 30, jaxmarl, jaxmarl_python)


@bench.command()
@click.option("--task", default="traffic/grid-2x2", show_default=True, help="A task of traffic/.")
@click.option("--greens", type=Counts(), default="5,10,20", show_default=True, help="Seconds of fixed greens.")
@click.option("--episodes", type=click.IntRange(min=2), default=20, show_default=True, help="Of each control.")
@click.option("--episode-length", type=_COUNT, metavar="STEPS", help="Of 5 seconds each [default: the task's own].")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The run's to compare with.")
@_shared
def traffic(
    task: str,
    greens: tuple[int, ...],
    episodes: int,
    episode_length: int | None,
    seed: int,
    path: Path | None,
    quick: bool,
) -> None:
    """Waiting and travel times under fixed-time and actuated control (extra: traffic).

    The episodes are those that `matrpo eval --episodes N` plays with the policies of a run with this seed.
    """
    _measure("traffic", path, quick, task, greens, episodes, episode_length, seed)


@bench.command("signal")
@click.option("--batches", type=click.IntRange(min=2), default=6, show_default=True, help="Batches of samples.")
@_changes
@_shared
def reward_signal(batches: int, changes: dict[str, Any], path: Path | None, quick: bool) -> None:
    """Where the reward's signal is lost on its way from treasure's banks to its hunters."""
    _measure("signal", path, quick, batches, changes)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _measure(module: str, path: Path | None, quick: bool, *sizes: Any) -> None:
    """Run a benchmark, print its tables and write its file.

    Args:
        module: the benchmark's, in this folder.
        path: where its figures go.
        quick: tiny sizes.
        sizes: what else its `run` takes before `quick`.

    Raises:
        ConfigError: the file cannot be written, which is found before the long work begins.
    """
    path = path or Path(f"bench-{module.rpartition('.')[2]}.json")
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise ConfigError(f"--json {path}: this file cannot be written")
    report: Report = import_module(f"matrpo.experiments.bench.{module}").run(*sizes, quick, _say)
    if quick:
        report = dataclasses.replace(report, settings={**report.settings, "quick": True}, goals=())
    report.print()
    report.save(path)
    _say(f"saved {path}")
