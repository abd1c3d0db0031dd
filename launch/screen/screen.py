"""What the user sees of a run: a live screen on a terminal, plain lines elsewhere. Reads the metrics files only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from matrpo.launch.screen.link_table import count_states
from matrpo.launch.screen.progress import Progress
from matrpo.runs.run_directory import RunDirectory

_BLOCKS = "▁▂▃▄▅▆▇█"
_FIXED_LINES = 10
"""Lines of the live screen that are not rows of the table of agents."""

_WIDE = 100


class Screen(Protocol):
    """Shows a run while it goes on. A context manager."""

    def __enter__(self) -> Screen: ...

    def __exit__(self, *raised: object) -> None: ...

    def tick(self) -> None:
        """Show what has changed."""

    def say(self, line: str) -> None:
        """Show one line that stays."""


def make_screen(run: RunDirectory) -> Screen:
    """The screen that fits standard error."""
    console = Console(stderr=True, highlight=False)
    return LiveScreen(run, console) if console.is_terminal else PlainScreen(run)


class PlainScreen:
    """One line on standard error for each iteration.

    Args:
        run: the run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._progress = Progress(run)
        self._progress.poll()
        self._shown = self._progress.iteration
        self._hinted = False

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *raised: object) -> None:
        self.tick()

    def tick(self) -> None:
        """Print a line for each iteration that every agent has finished since the last call."""
        self._progress.poll(self._shown + 1)
        while self._progress.iteration > self._shown:
            self._shown = self._progress.iteration
            self.say(plain_line(self._progress))
            if self._progress.endless and not self._hinted:
                self._hinted = True
                self.say(self._progress.endless)
            self._progress.poll(self._shown + 1)

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)


class LiveScreen:
    """A screen that is redrawn in place.

    Args:
        run: the run directory.
        console: a terminal.
    """

    def __init__(self, run: RunDirectory, console: Console) -> None:
        self._progress = Progress(run)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop")

    def __enter__(self) -> LiveScreen:
        self._live.start()
        self.tick()
        return self

    def __exit__(self, *raised: object) -> None:
        self.tick()
        self._live.stop()

    def tick(self) -> None:
        """Redraw."""
        self._progress.poll()
        self._live.update(draw(self._progress, self._console.width, self._console.height), refresh=True)

    def say(self, line: str) -> None:
        """Print a line above the screen."""
        self._console.print(line, markup=False, soft_wrap=True)


def plain_line(progress: Progress) -> str:
    """An iteration in one line."""
    return "  ".join(
        (
            f"iteration {progress.iteration}/{progress.run.config.iterations}",
            f"steps {progress.steps:,}",
            f"return {_number(progress.latest_return)}",
            *(_central_facts(progress) if progress.is_central else _consensus_facts(progress)),
            f"{_count(progress.steps_per_second)} steps/s",
            f"left {_duration(progress.seconds_left)}",
            *([f"links {trouble}"] if (trouble := link_trouble(progress)) else []),
        )
    )


def link_trouble(progress: Progress) -> str:
    """The links' problems in the last iteration, such as lost connections, in words; "" if there are none."""
    links = progress.links
    states = [f"{count} {state}" for state, count in count_states(links).items() if state != "up"]
    totals = {name: sum(link[name] for link in links) for name in ("skips", "resends")}
    totals["rejects"] = sum(sum(link["rejected"].values()) for link in links)
    return ", ".join([*states, *(f"{count} {name}" for name, count in totals.items() if count)])


def draw(progress: Progress, width: int, height: int) -> RenderableType:
    """The whole screen.

    Args:
        progress: what to show.
        width: columns of the terminal.
        height: its rows.
    """
    whole = _trainer(progress) if progress.is_central else _links(progress)
    parts = (_title(progress, width), _bar(progress), _returns(progress, width), whole)
    return Group(*parts, _agents(progress, width, height))


def draw_links(links: list[dict[str, Any]]) -> RenderableType:
    """Draw the rows of `link_table` as a table."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for column in ("link", "state", "rtt ms", "sent", "messages", "commits", "skips", "resends", "rejected"):
        table.add_column(column, justify="right", no_wrap=True)
    for link in links:
        counts = [_count(link[name]) for name in ("messages_sent", "commits", "skips", "resends")]
        rejected = ", ".join(f"{count} {reason}" for reason, count in link["rejected"].items()) or "0"
        ends = " - ".join(map(str, link["ends"]))
        state = link["state"] or "-"
        table.add_row(ends, state, _number(link["rtt_ms_median"]), _bytes(link["bytes_sent"]), *counts, rejected)
    return Group(Text(), table)


def sparkline(values: list[float], width: int) -> str:
    """The last values as a row of blocks, the smallest the lowest."""
    values = values[-width:]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def _title(progress: Progress, width: int) -> RenderableType:
    config = progress.run.config
    what = Text(no_wrap=True, overflow="ellipsis")
    what.append("matrpo ", "bold")
    topology = f"{progress.topology}, " if progress.topology else ""
    what.append(f"{config.task}, {config.agents} agents, {topology}{config.algo}, seed {config.seed}")
    where = Text(str(progress.run.path), "dim", no_wrap=True, overflow="ellipsis")
    if what.cell_len + where.cell_len + 2 > width:
        return Group(what, where)
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    line.add_row(what, where)
    return Group(line, Text())


def _bar(progress: Progress) -> RenderableType:
    config = progress.run.config
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    share = f"{progress.steps:,} of {progress.total_steps:,} steps"
    line.add_row(ProgressBar(total=progress.total_steps, completed=progress.steps), share)
    facts = Text(no_wrap=True, overflow="ellipsis")
    facts.append(f"iteration {progress.iteration} of {config.iterations}")
    facts.append(f"  {_count(progress.steps_per_second)} steps/s")
    facts.append(f"  {_duration(progress.seconds_left)} left")
    facts.append(f"  {progress.phase}", "dim")
    return Group(line, facts)


def _returns(progress: Progress, width: int) -> RenderableType:
    values = [value for value in progress.returns.values() if value is not None]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("team return ")
    line.append(f"{_number(progress.latest_return):>8}", "bold cyan")
    line.append(f"  best {_number(progress.best_return):>8}  ")
    line.append(sparkline(values, max(8, width - line.cell_len - 1)), "cyan")
    line.append(progress.endless, "yellow")
    return line


def _links(progress: Progress) -> RenderableType:
    line = Text(no_wrap=True, overflow="ellipsis")
    states = count_states(progress.links)
    if not states:
        return Text()
    line.append(f"links       {states.get('up', 0)} up")
    if trouble := link_trouble(progress):
        line.append(f", {trouble}", "bold yellow")
    if absent := sorted(progress.absent):
        line.append(f"  absent: {', '.join(map(str, absent))}", "bold red")
    return Group(line, Text())


def _trainer(progress: Progress) -> RenderableType:
    if not progress.trainer:
        return Text()
    trainer = progress.trainer
    facts = [f"{title} {show(_mean([trainer], name))}" for title, name, show in _TRAINER if name in trainer]
    return Group(Text("training    " + "  ".join(facts), no_wrap=True, overflow="ellipsis"), Text())


def _consensus_facts(progress: Progress) -> list[str]:
    lines = progress.agents
    kl, residual = (_number(_mean(lines, name)) for name in ("kl", "consensus_residual"))
    return [f"kl {kl}", f"residual {residual}", f"sent {_bytes(_total(lines, 'bytes_sent'))}"]


def _central_facts(progress: Progress) -> list[str]:
    """The agents' means and the critic's loss, as far as the algorithm reports them."""
    means = [(title, _mean(progress.agents, name)) for title, name in _PLAIN]
    facts = [*means, ("critic", _mean([progress.trainer], "critic_loss"))]
    return [f"{title} {_number(value)}" for title, value in facts if value is not None]


def _columns(progress: Progress) -> tuple[_Column, ...]:
    """Columns of the agents' table; of central training, those that the metrics have, none if only the iteration."""
    if not progress.is_central:
        return _COLUMNS
    columns = tuple(column for column in _CENTRAL_COLUMNS if any(column[1] in line for line in progress.agents))
    return columns if len(columns) > 1 else ()


def _agents(progress: Progress, width: int, height: int) -> RenderableType:
    columns = _columns(progress)
    if not columns:
        return Text()
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim", expand=width >= _WIDE)
    for column in ("agent", *(title for title, _, _ in columns)):
        table.add_column(column, justify="right", no_wrap=True)
    room = max(1, height - _FIXED_LINES)
    lines = list(enumerate(progress.agents))
    hidden = lines[room - 1 :] if len(lines) > room else []
    for agent, line in lines[: len(lines) - len(hidden)]:
        table.add_row(str(agent), *(show(_mean([line], name)) for _, name, show in columns))
    if hidden:
        means = (show(_mean([line for _, line in hidden], name)) for _, name, show in columns)
        table.add_row(f"+{len(hidden)}", *means, style="dim")
    return table


def _values(lines: list[dict[str, float]], name: str) -> list[float]:
    return [value for line in lines if isinstance(value := line.get(name), int | float)]


def _mean(lines: list[dict[str, float]], name: str) -> float | None:
    values = _values(lines, name)
    return sum(values) / len(values) if values else None


def _total(lines: list[dict[str, float]], name: str) -> float | None:
    values = _values(lines, name)
    return sum(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if 100 <= abs(value) < 100_000:
        return f"{value:.1f}"
    return f"{value:.3g}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _seconds(value: float | None) -> str:
    return f"{_number(value)} s"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


_Column = tuple[str, str, Callable[[float | None], str]]

_COLUMNS: tuple[_Column, ...] = (
    ("iteration", "iteration", _count),
    ("KL", "kl", _number),
    ("surrogate", "surrogate", _number),
    ("residual", "consensus_residual", _number),
    ("Fisher", "fisher_products", _count),
    ("sent", "bytes_sent", _bytes),
    ("critic", "critic_loss", _number),
    ("step", "step_fraction", _number),
)
"""The table of agents: title, name in the metrics, and how to show it."""

_CENTRAL_COLUMNS: tuple[_Column, ...] = (
    ("iteration", "iteration", _count),
    ("KL", "kl", _number),
    ("entropy", "entropy", _number),
    ("max ratio", "ratio_max", _number),
    ("max TV", "total_variation_max", _number),
    ("critic", "critic_loss", _number),
    ("surrogate", "surrogate", _number),
    ("Fisher", "fisher_products", _count),
    ("step", "step_fraction", _number),
)
"""The table of agents where one process trains all of them: algorithms differ in what they report."""

_PLAIN = (("kl", "kl"), ("entropy", "entropy"), ("ratio", "ratio_max"))
"""Agents' metrics in the plain line of central training: title and name in the metrics."""

_TRAINER: tuple[_Column, ...] = (
    ("critic", "critic_loss", _number),
    ("explained variance", "explained_variance", _number),
    ("value", "value_mean", _number),
    ("epsilon", "epsilon", _number),
    ("update", "seconds_update", _seconds),
)
"""The trainer's own metrics, such as the critic's loss: title, name in the metrics, and how to show it."""
