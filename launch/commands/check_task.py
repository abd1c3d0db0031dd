"""`matrpo check-task`: is a task what it says, and what will become of it in training?"""

from __future__ import annotations

import click

from matrpo.envs.conformance.survey import STEPS, survey
from matrpo.launch.processes.process import EXIT_MISTAKE

_WARNED = 1


@click.command("check-task")
@click.argument("task")
@click.option("--agents", type=click.IntRange(min=1), metavar="N", help="Number of agents (default: the task's).")
@click.option(
    "--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, metavar="N", help="Random steps to take."
)
def check_task(task: str, agents: int | None, steps: int) -> int:
    """Try TASK out in random steps: by name, by file, or any PettingZoo parallel environment.

    Each finding is a line: ok, a warning of what may go wrong, or why matrpo cannot train on it. The status is 0, with
    warnings 1, or else 2.
    """
    verdicts = set()
    for verdict, text in survey(task, agents, steps):
        click.echo(f"{verdict:5}{' '.join(text.split())}")
        verdicts.add(verdict)
    return EXIT_MISTAKE if "bad" in verdicts else _WARNED if "warn" in verdicts else 0
