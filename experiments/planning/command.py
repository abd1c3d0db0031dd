"""`matrpo plan`: predict a run's time, traffic and memory, before it is launched."""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from matrpo.errors import ConfigError
from matrpo.experiments.planning import units
from matrpo.launch.commands.options import (
    PATH,
    Given,
    SectionedCommand,
    resolve_layers,
    setting_layers,
    setting_options,
)
from matrpo.settings import algorithm_names
from matrpo.settings.config import RunConfig

if TYPE_CHECKING:
    from matrpo.experiments.planning.cost_constants import Constants
    from matrpo.experiments.planning.cost_model import Prediction

_COUNT = click.IntRange(min=1)
_WIDTH = 120
"""Width of tables in characters where standard output is not a terminal."""


@click.command(cls=SectionedCommand)
@setting_options
@click.option("--bandwidth", metavar="RATE", help="Of each machine's connection, either way: 1Gbps, 40MB/s [no limit].")
@click.option("--latency", metavar="TIME", help="Of a message between machines, one way: 1ms, 50us [none].")
@click.option("--cores", type=_COUNT, metavar="N", help="Of each machine [this one's].")
@click.option(
    "--cores-per-agent", type=click.FloatRange(min=0, min_open=True), metavar="X", help="The same over its agents."
)
@click.option(
    "--agents-per-machine",
    type=_COUNT,
    metavar="N",
    help="At most so many are on one [all; 1 with --bandwidth or --latency].",
)
@click.option(
    "--constants", type=PATH, metavar="FILE", help="What `matrpo bench scaling --json FILE` measured [shipped]."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(
    given: Given,
    bandwidth: str | None,
    latency: str | None,
    cores: int | None,
    cores_per_agent: float | None,
    agents_per_machine: int | None,
    constants: Path | None,
    as_json: bool,
) -> None:
    """Predict time, traffic and memory of a run from measured constants, and name its bottleneck.

    Takes the settings of `matrpo launch`. Without more, all processes are on this machine. With --bandwidth or
    --latency every agent is on a machine of its own, as is the environment server.
    """
    config = resolve_layers(setting_layers(given))
    if config.algo != "matrpo":
        how = "it trains in one process" if algorithm_names.is_central(config.algo) else "its steps are not measured"
        raise ConfigError(f"--algo {config.algo}: {how}; plans are for matrpo")
    if config.device == "cuda":
        raise ConfigError("--device cuda: plans are of networks that learn on the processor; leave it out")
    if cores and cores_per_agent:
        raise ConfigError("--cores and --cores-per-agent say the same: leave one out")
    on_one = min(config.agents, agents_per_machine or (1 if bandwidth or latency else config.agents))
    of_agents = math.ceil(cores_per_agent * on_one) if cores_per_agent else None
    document = _plan(
        config,
        cores or of_agents or os.cpu_count() or 1,
        on_one,
        units.bandwidth(bandwidth) if bandwidth else math.inf,
        units.latency(latency) if latency else 0.0,
        constants,
    )
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document)


def _plan(
    config: RunConfig, cores: int, agents_per_machine: int, bandwidth: float, latency: float, file: Path | None
) -> dict[str, Any]:
    """The prediction as JSON values, in bytes and seconds."""
    from matrpo.envs.build import run_spec
    from matrpo.experiments.planning.cost_constants import fit, read_measurements
    from matrpo.experiments.planning.cost_model import Placement, predict
    from matrpo.experiments.planning.relief import choose, reliefs
    from matrpo.launch.wire.limits import check_limits
    from matrpo.runs.graph_settings import build_graph, resolve_graph_settings

    graph, spec, config = build_graph(config), run_spec(config), resolve_graph_settings(config)
    check_limits(graph, config.env_servers)
    constants = fit(*read_measurements(file))
    placement = Placement(cores, agents_per_machine, bandwidth, latency)
    plan = predict(config, spec, graph, constants, placement)
    changes = reliefs(config, placement, plan)
    shorter = [predict(change.config, spec, graph, constants, change.placement).seconds for change in changes]
    gains = [1.0 - seconds / plan.seconds for seconds in shorter]
    best = choose(gains)
    return {
        "task": config.task,
        "agents": graph.num_agents,
        "topology": graph.name,
        "links": len(graph.links),
        "samples": config.samples,
        "shared_samples": config.shared_samples,
        "wire_dtype": config.wire_dtype,
        "activations": plan.activations,
        "rounds": plan.rounds,
        "machines": plan.machines,
        "cores_per_machine": cores,
        "agents_per_machine": agents_per_machine,
        "bandwidth_bytes_per_second": None if math.isinf(bandwidth) else bandwidth,
        "latency_seconds": latency,
        "seconds_per_iteration": plan.seconds,
        "seconds_of_run": plan.seconds * config.iterations,
        "steps_per_second": config.samples / plan.seconds,
        "phases": plan.phases,
        "limits": plan.limits,
        "bottleneck": plan.bottleneck,
        "relief": {"change": changes[best].change, "saves": gains[best]},
        "cpu_seconds": plan.cpu,
        **_carried(plan, config.rollout_length * graph.num_agents),
        "constants": {"file": str(file) if file else "shipped", **_fitted_to(constants)},
    }


def _fitted_to(constants: Constants) -> dict[str, Any]:
    """The measurements that constants of the cost model stand for."""
    return {"machine": constants.machine, "task": constants.task, "agents": list(constants.agents)}


def _carried(plan: Prediction, answers: int) -> dict[str, dict[str, Any]]:
    """Traffic and memory of links, agents and the environment server, which sends so many answers."""
    traffic = plan.traffic
    return {
        "link": {
            "messages": _spread([2 * count for count in traffic.activations]),
            "bytes": _spread(traffic.bytes),
            "message_bytes": traffic.largest_message,
            "payload_bytes": traffic.payload,
            "probe_bytes_per_second": 2 * traffic.probe_bytes_per_second,
        },
        "agent": {
            "messages": _spread(traffic.agent_messages),
            "bytes": _spread(traffic.agent_bytes),
            "memory_bytes": plan.agent_bytes,
        },
        "server": {"bytes": answers * plan.observation_bytes, "received_bytes": answers * plan.action_bytes},
    }


def _spread(values: Any) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "largest": max(values)} if values else {"mean": 0.0, "largest": 0}


def _print(plan: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for line in _heading(plan):
        console.print(line)
    seconds = plan["seconds_per_iteration"]
    console.print(_shares("an average agent's iteration", plan["phases"], seconds))
    console.print(_shares("what its time is spent on", plan["limits"], seconds))
    console.print(_amounts(plan))
    part = plan["limits"][plan["bottleneck"]] / seconds
    console.print(f"bottleneck: {plan['bottleneck']}, {part:.0%} of the time")
    console.print(f"relief: {plan['relief']['change']} would take {plan['relief']['saves']:.0%} off")
    for note in _notes(plan):
        console.print(f"note: {note}")


def _heading(plan: dict[str, Any]) -> list[str]:
    cores, seconds, run = plan["cores_per_machine"], plan["seconds_per_iteration"], plan["seconds_of_run"]
    machines = f"{_count(plan['machines'], 'machine')} of {_count(cores, 'core')}"
    if plan["machines"] > 1:
        rate = plan["bandwidth_bytes_per_second"]
        carries = "any bandwidth" if rate is None else f"{units.show_bytes(rate)}/s"
        late = units.show_seconds(plan["latency_seconds"])
        machines += f" and one for the environment server, {carries}, {late} one way"
    graph = f"{plan['topology']} ({_count(plan['links'], 'link')})"
    return [
        f"{plan['task']}, {_count(plan['agents'], 'agent')} on {graph}; {machines}",
        f"an iteration: {plan['samples']:,} samples, {plan['activations']:,} activations in {plan['rounds']:,} rounds, "
        f"{units.show_seconds(seconds)}; the whole run: {units.show_seconds(run)}",
    ]


def _shares(title: str, parts: dict[str, float], total: float) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in parts.items():
        table.add_row(name, units.show_seconds(seconds), f"{seconds / total:.0%}")
    table.add_row("together", units.show_seconds(total), "", style="bold")
    return table


def _amounts(plan: dict[str, Any]) -> Table:
    table = Table(title="in an iteration, on average (at most)", title_justify="left")
    for column in ("", "messages", "bytes"):
        table.add_column(column, justify="right" if column else "left")
    for name, key in (("on a link, both ways", "link"), ("sent by an agent to its neighbours", "agent")):
        messages, sizes = plan[key]["messages"], plan[key]["bytes"]
        table.add_row(
            name,
            f"{messages['mean']:.4g} ({messages['largest']:,})",
            f"{units.show_bytes(sizes['mean'])} ({units.show_bytes(sizes['largest'])})",
        )
    table.add_row("a message", "1", units.show_bytes(plan["link"]["message_bytes"]))
    table.add_row("sent by the environment server", "", units.show_bytes(plan["server"]["bytes"]))
    table.add_row("memory of an agent", "", units.show_bytes(plan["agent"]["memory_bytes"]))
    return table


def _notes(plan: dict[str, Any]) -> list[str]:
    constants = plan["constants"]
    notes = [
        f"constants are of {constants['machine'].get('processor')}, "
        f"fitted to runs of {', '.join(map(str, constants['agents']))} agents"
    ]
    if constants["task"] != plan["task"]:
        notes.append(f"they were measured with {constants['task']}: {plan['task']} may step faster or slower")
    alone = plan["machines"] == 1
    if alone and (plan["bandwidth_bytes_per_second"] or plan["latency_seconds"]):
        notes.append("all agents are on one machine: --bandwidth and --latency change nothing")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
