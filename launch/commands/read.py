"""Commands that inspect runs, graphs and the available tasks and algorithms: eval, status, topology, list."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click

from matrpo.errors import ConfigError
from matrpo.launch.commands.options import PATH
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import StorageError, write_crash_safely
from matrpo.settings import tuned
from matrpo.settings.algorithm_names import ALGORITHMS

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_PICTURES = (".png", ".svg")


@click.command("eval")
@click.argument("run", type=PATH)
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="New episodes to play.")
@click.option("--stochastic", is_flag=True, help="Draw actions, as in training, instead of the most probable.")
@click.option("--render", type=PATH, metavar="FILE", help="Save one episode as a film, .gif or .mp4.")
@click.option("--episode-length", type=click.IntRange(min=1), metavar="N", help="Cut episodes off after so many steps.")
@_JSON
def evaluate_run(
    run: Path, episodes: int, stochastic: bool, render: Path | None, episode_length: int | None, as_json: bool
) -> None:
    """Play new episodes with a run's latest checkpoint: mean team return and its 95% confidence interval."""
    directory = RunDirectory.open(run)
    if episode_length is not None:
        directory.config = dataclasses.replace(directory.config, episode_length=episode_length)
    from matrpo.evaluation import evaluate, render_episode

    if render:
        frames = render_episode(directory, render, deterministic=not stochastic)
        click.echo(f"{render}: {frames} frames", err=True)
    result = evaluate(directory, episodes, deterministic=not stochastic)
    document = dataclasses.asdict(result)
    _keep(directory.path / "evaluation" / f"{result.iteration:06d}.json", document)
    if as_json:
        _print_json(document)
        return
    for name, mean, ci95 in (
        ("return", result.return_mean, result.return_ci95),
        *((name, found.mean, found.ci95) for name, found in result.statistics.items()),
    ):
        click.echo(f"{name} {mean:.2f}" + ("  (95% CI {:.2f} to {:.2f})".format(*ci95) if ci95 else ""))
    click.echo(f"{result.episodes} episodes at iteration {result.iteration} of {run}")
    for name, mean in result.per_agent.items():
        click.echo(f"  {name}  {mean:.2f}")


@click.command()
@click.argument("run", type=PATH)
@_JSON
def status(run: Path, as_json: bool) -> None:
    """How far a run is, from its files alone."""
    from matrpo.launch.screen.progress import Progress

    progress = Progress(RunDirectory.open(run))
    progress.poll()
    if as_json:
        _print_json(progress.summary())
        return
    from rich.console import Console

    from matrpo.launch.screen.screen import draw, draw_links

    console = Console(highlight=False)
    console.print(draw(progress, console.width, height=1 << 20))
    if not progress.is_central:
        console.print(draw_links(progress.links))
    summary = progress.summary()
    ages = [process["seconds_since_last_line"] for process in summary["processes"]]
    known = [age for age in ages if age is not None]
    last = f"last line {min(known):.0f} s ago" if known else "no line yet"
    running = "running on this machine" if summary["running"] else "no launcher on this machine"
    click.echo(f"\n{running}, {last}, checkpoint of iteration {summary['checkpoint']}")


@click.command()
@click.argument("name")
@click.option("--agents", type=click.IntRange(min=1), metavar="N", help="Agents [default: 12, or the task's].")
@click.option("--task", help="Whose agents they are: it says who is on one road.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random graphs.")
@click.option("--save", type=PATH, metavar="FILE", help="Picture (.png, .svg) or graph (.json, .graphml, .edgelist).")
@_JSON
def topology(name: str, agents: int | None, task: str | None, seed: int, save: Path | None, as_json: bool) -> None:
    """Print the links of a communication graph and save a picture of it.

    NAME is one of `matrpo list topologies`, or a graph file. Without --save the picture goes to NAME-N.png.
    """
    from matrpo.envs.registry import task_spec
    from matrpo.launch.screen.picture import save_picture
    from matrpo.topology import TopologyError, make_graph, save_graph

    spec = task_spec(task, agents) if task else None
    agents = spec.num_agents if spec else agents or 12
    try:
        graph = make_graph(name, agents, seed, spec.neighbours if spec else None)
        path = save or Path(f"{Path(graph.name).name.replace(':', '-')}-{agents}.png")
        if path.suffix.lower() in _PICTURES:
            save_picture(graph, path)
        else:
            save_graph(graph, path)
    except TopologyError as error:
        raise ConfigError(str(error)) from None
    connectivity = graph.algebraic_connectivity()
    if as_json:
        links = [list(link) for link in graph.links]
        facts = {"algebraic_connectivity": connectivity, "saved": str(path)}
        _print_json({"name": graph.name, "agents": agents, "links": links, **facts})
        return
    for link, (i, j) in enumerate(graph.links):
        click.echo(f"link {link}: {i} - {j}")
    click.echo(f"{graph.name}: {agents} agents, {len(graph.links)} links, algebraic connectivity {connectivity:.4f}")
    click.echo(f"saved {path}", err=True)


@click.command("list")
@click.argument("what", type=click.Choice(["tasks", "algorithms", "topologies", "faults"]))
@_JSON
def list_things(what: str, as_json: bool) -> None:
    """What --task, --algo, --topology and --faults may name."""
    entries = {"tasks": _tasks, "algorithms": _algorithms, "topologies": _topologies, "faults": _faults}[what]()
    if as_json:
        _print_json(entries)
        return
    if what == "tasks":
        from matrpo.launch.screen.task_list import lines

        click.echo("\n".join(lines(entries)))
        return
    width = max(len(entry.get("usage", entry["name"])) for entry in entries)
    for entry in entries:
        fitted = f"; tuned for {', '.join(entry['tuned_for'])}" if entry.get("tuned_for") else ""
        click.echo(f"{entry.get('usage', entry['name']):{width}}  {entry['description']}{fitted}")


def _tasks() -> list[dict[str, Any]]:
    from matrpo.launch.screen.task_list import entries

    return entries()


def _algorithms() -> list[dict[str, Any]]:
    return [
        {"name": name, "description": entry.description, "tuned_for": tuned.families(name)}
        for name, entry in ALGORITHMS.items()
    ]


def _topologies() -> list[dict[str, Any]]:
    from matrpo.topology import TOPOLOGIES

    return [
        {"name": name, "usage": entry.usage, "description": entry.description} for name, entry in TOPOLOGIES.items()
    ]


def _faults() -> list[dict[str, Any]]:
    from matrpo.faults.script import library

    return [{"name": name, "description": text} for name, text in library().items()]


def _keep(path: Path, document: Any) -> None:
    """Store an evaluation with its run, if that can be written to: a run on a read-only disk can be evaluated too."""
    try:
        write_crash_safely(path, json.dumps(_finite(document)).encode())
    except StorageError as error:
        click.echo(f"not kept: {error}", err=True)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(_finite(document), indent=2))


def _finite(value: Any) -> Any:
    """Replace values that are not finite by None: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
