"""`matrpo track`: send the curves of a run to a tracker."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
from setproctitle import setproctitle

from matrpo.errors import ConfigError, in_words
from matrpo.launch.commands.options import PATH
from matrpo.launch.processes.interrupts import Interrupts
from matrpo.launch.processes.process import EXIT_FAILED, EXIT_INTERRUPTED, StopRequested, stop_at_end_of_input
from matrpo.launch.tracking.child import GRACE
from matrpo.launch.tracking.follower import Follower
from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.trackers import TRACKERS, check_tracker, make_tracker
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import StorageError, locked, storing

_POLL = 0.5
_TO_LET_GO = 60.0
"""Seconds in which a process that followed the run before, and whose launcher was killed, has ended."""


@click.command()
@click.argument("path", type=PATH, metavar="RUN")
@click.option("--to", "name", type=click.Choice(TRACKERS), help="The tracker [that of the run's settings].")
@click.option("--follow", is_flag=True, help="Go on with what the run still writes, until Ctrl-C.")
@click.option("--until-eof", is_flag=True, help="As --follow, until standard input ends.")
def track(path: Path, name: str | None, follow: bool, until_eof: bool) -> int:
    """Send a run's settings and metrics to Weights & Biases or MLflow: what that does not have yet.

    Of a run on several machines each has some processes' metrics: call this on each of them.
    """
    run = RunDirectory.open(path)
    name = name or run.config.tracker
    if name == "none":
        raise ConfigError(f"{path} has no tracker: name one with --to {' or '.join(TRACKERS)}")
    check_tracker(name)
    setproctitle(f"matrpo track {path}")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        with Interrupts().counted() as interrupts:
            if until_eof:
                stop_at_end_of_input(GRACE)
            with _alone(path / "tracker", _TO_LET_GO if until_eof else 0.0):
                _send(run, name, interrupts, follow or until_eof)
    except StopRequested:
        return EXIT_INTERRUPTED
    except (ConfigError, StorageError):
        raise
    except Exception as error:  # whatever the tracker's package raises
        print(f"matrpo: error: {name}: {in_words(error)}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_INTERRUPTED if interrupts.count and not until_eof else 0


def _send(run: RunDirectory, name: str, interrupts: Interrupts, follow: bool) -> None:
    """Send what there is, and if it is to be followed, what comes until the user stops that; a second time is final."""
    ledger = Ledger(run.path / "tracker" / f"{name}.json")
    tracker = make_tracker(name, run, ledger)
    follower = Follower(run, tracker, ledger)
    while True:
        last = not follow or interrupts.count > 0  # what was written until now is still sent
        interrupts.raising = last
        follower.poll()
        if last:
            return tracker.close(follower.whole)
        time.sleep(_POLL)


@contextlib.contextmanager
def _alone(folder: Path, patience: float) -> Iterator[None]:
    """Lock the folder of trackers, being patient for so many seconds."""
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(folder, f"{folder} is in use: another `matrpo track` sends this run"))
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
                continue
            yield
            return
