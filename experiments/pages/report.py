"""`matrpo report`: the injected faults of a run, their costs, and when each link recovered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from matrpo.errors import ConfigError
from matrpo.launch.processes.process_faults import read_record
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely

_COSTS = ("commits", "give_ups", "skips", "resends")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page of all there is to say.")
@click.option("--serve", is_flag=True, help="Show that page to browsers of this machine, renewed as the runs go on.")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of --serve [one that is free].")
def report(paths: tuple[Path, ...], as_json: bool, html: Path | None, serve: bool, port: int | None) -> None:
    """Show the faults of runs, their costs, and when each link recovered; as a page, curves and settings too."""
    if port is not None and not serve:
        raise ConfigError("--port is that of --serve: add it, or leave --port out")
    if serve:
        if as_json or html:
            raise ConfigError("--serve shows a page in a browser: leave --json and --html out")
        _serve(paths, port or 0)
        return
    reports = {str(path): describe(RunDirectory.open(path)) for path in paths}
    if html:
        from matrpo.experiments.pages.report_page import report_page

        page = report_page([(RunDirectory.open(Path(path)), tables) for path, tables in reports.items()])
        write_crash_safely(html, page.encode())
        click.echo(f"saved {html}", err=True)
        return
    if as_json:
        click.echo(json.dumps(reports, indent=2))
        return
    console = Console()
    for path, content in reports.items():
        console.print(f"[bold]{path}[/bold]")
        for title in ("faults", "links"):
            console.print(_table(title, content[title]))


def _serve(paths: Sequence[Path], port: int) -> None:
    """Serve the page of runs until Ctrl-C."""
    from matrpo.experiments.pages.live_page import LivePage, PageServer
    from matrpo.experiments.pages.report_page import Picture, report_page, run_pictures

    runs = [RunDirectory.open(path) for path in paths]
    drawn: dict[Path, tuple[int, list[Picture]]] = {}

    def draw(run: RunDirectory) -> list[Picture]:
        """Its pictures: a new film for each new checkpoint alone."""
        newest = run.latest_common_iteration()
        if run.path not in drawn or drawn[run.path][0] != newest:
            drawn[run.path] = newest, run_pictures(run)
        return drawn[run.path][1]

    def render(version: str) -> str:
        opened = [RunDirectory.open(path) for path in paths]
        return report_page([(run, describe(run)) for run in opened], draw, version)

    def files() -> list[Path]:
        folders = [directory.path for run in runs for directory in run.processes().values()]
        lines = [folder / name for folder in folders for name in ("metrics.jsonl", "faults.jsonl")]
        return [*lines, *(file for run in runs for file in sorted((run.path / "evaluation").glob("*.json")))]

    with PageServer(LivePage(files, render), port) as server:
        click.echo(server.address)
        server.serve_forever()


def describe(run: RunDirectory) -> dict[str, list[dict[str, Any]]]:
    """The report of a run as JSON values: its `faults` and its `links`.

    Raises:
        ConfigError: the run's files cannot be read.
    """
    records = {process.name: read_record(directory) for process, directory in run.processes().items()}
    lines = [run.agent(agent).read_metrics() for agent in range(run.num_agents)]
    return {"faults": fault_rows(records), "links": link_rows(lines)}


def fault_rows(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row for each fault that began anywhere.

    Args:
        records: each process's record of what happened, by its name.
    """
    rows: dict[int, dict[str, Any]] = {}
    for name, record in records.items():
        for entry in record:
            row = rows.setdefault(
                entry["fault"],
                {
                    "fault": entry["fault"] + 1,
                    "do": str(entry.get("do")),
                    "began": 0,
                    "iterations": [],
                    "processes": [],
                },
            )
            row["began"] += entry["event"] == "begins"
            row["iterations"].append(entry["iteration"])
            row["processes"].append(name)
    for row in rows.values():
        row["iterations"] = [min(row["iterations"]), max(row["iterations"])]
        row["processes"] = sorted(set(row["processes"]))
    return [rows[number] for number in sorted(rows)]


def link_rows(lines: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row for each end of a link: totals over the run, and the first iteration from which on nothing was lost.

    Args:
        lines: each agent's metrics. `whole_from` is None while the last iteration still lost an activation;
            `disagreements` counts the iterations after which the two ends shared no state, or one that differed.
    """
    states = _states(lines)
    rows = []
    for agent, metrics in enumerate(lines):
        neighbours = sorted({int(other) for line in metrics for other in line.get("links", {})})
        for other in neighbours:
            ends = [
                (line["iteration"], line["links"][str(other)])
                for line in metrics
                if str(other) in line.get("links", {})
            ]
            disturbed = [iteration for iteration, end in ends if _count(end, "give_ups") + _count(end, "skips")]
            last = ends[-1][0]
            whole_from = 1 if not disturbed else disturbed[-1] + 1 if disturbed[-1] < last else None
            rows.append(
                {
                    "end": f"{agent} to {other}",
                    **{cost: sum(_count(end, cost) for _, end in ends) for cost in _COSTS},
                    "rejected": sum(sum(filter(None, end.get("rejected", {}).values())) for _, end in ends),
                    "disagreements": sum(
                        not _agree(own, states[other, agent, iteration])
                        for (one, two, iteration), own in states.items()
                        if (one, two) == (agent, other) and (other, agent, iteration) in states
                    ),
                    "disturbed_iterations": len(disturbed),
                    "whole_from": whole_from,
                }
            )
    return rows


def _count(end: Mapping[str, Any], name: str) -> int:
    return end.get(name) or 0


def _states(lines: Sequence[Sequence[Mapping[str, Any]]]) -> dict[tuple[int, int, int], dict[str, int]]:
    """Fingerprints of the states that an agent kept of a link, by (agent, neighbour, iteration)."""
    return {
        (agent, int(other), line["iteration"]): link["states"]
        for agent, metrics in enumerate(lines)
        for line in metrics
        for other, link in line.get("links", {}).items()
        if "states" in link
    }


def _agree(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Invariant I1 of the link protocol: the ends share an activation, and the same state at each that they share."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[number] == other[number] for number in shared)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table | str:
    if not rows:
        return f"no {title}"
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    return table


def _text(value: Any) -> str:
    if isinstance(value, list):
        numbers = all(isinstance(item, int) for item in value)
        return " to ".join(map(str, value)) if numbers else f"{value[0]}, ... ({len(value)})" if value[1:] else value[0]
    return "not yet" if value is None else str(value)
