"""What a tracker is sent of metrics files that grow, and that are rolled back while it follows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.tracking.follower import Follower
from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.tracker import Point, Tracker
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config

CONFIG = Config(agents=2, topology="line", num_envs=2, rollout_length=5, steps=40)
AGENT = ProcessId.agent(1)


class Notebook(Tracker):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.curves: dict[str, list[Point]] = {}

    def add(self, process: ProcessId, points: Sequence[Point]) -> None:
        self.curves.setdefault(process.slug, []).extend(points)

    def close(self, whole: bool) -> None:
        """Nothing to end."""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {})


def write(run: RunDirectory, iterations: Sequence[int], kl: float = 0.5) -> None:
    for iteration in iterations:
        run.directory(AGENT).log_metrics({"iteration": iteration, "steps": 10 * iteration, "time": 7.0, "kl": kl})


def follow(run: RunDirectory, notebook: Notebook) -> Follower:
    return Follower(run, notebook, Ledger(run.path / "tracker" / "own.json"))


def steps(notebook: Notebook) -> list[int]:
    return [point.steps for point in notebook.curves[AGENT.slug]]


def test_each_line_becomes_a_point_once(run: RunDirectory) -> None:
    notebook = Notebook()
    follower = follow(run, notebook)
    follower.poll()
    assert notebook.curves == {}
    write(run, [1])
    follower.poll()
    write(run, [2, 3])
    follower.poll()
    follower.poll()
    points = [Point(steps, 7.0, {"losses/approx_kl": 0.5}) for steps in (10, 20, 30)]
    assert notebook.curves == {"agent-01": points}
    assert not follower.whole


def test_who_follows_next_goes_on_where_the_one_before_was(run: RunDirectory) -> None:
    notebook = Notebook()
    write(run, [1, 2])
    follow(run, notebook).poll()
    write(run, [3, 4])
    second = follow(run, notebook)
    second.poll()
    assert steps(notebook) == [10, 20, 30, 40]
    assert second.whole


def test_what_a_resumed_run_repeats_is_sent_once(run: RunDirectory) -> None:
    notebook = Notebook()
    write(run, [1, 2, 3])
    follow(run, notebook).poll()
    run.directory(AGENT).rewind(1)
    write(run, [2, 3, 4], kl=0.25)
    follow(run, notebook).poll()
    assert [(point.steps, *point.values.values()) for point in notebook.curves[AGENT.slug]] == [
        (10, 0.5),
        (20, 0.5),
        (30, 0.5),
        (40, 0.25),
    ]


@pytest.mark.parametrize("back", [0, 1, 2])
def test_an_agent_may_roll_back_its_file_meanwhile(run: RunDirectory, back: int) -> None:
    notebook = Notebook()
    follower = follow(run, notebook)
    write(run, [1, 2])
    follower.poll()
    run.directory(AGENT).rewind(back)
    write(run, range(back + 1, 3), kl=0.0625)  # the lines have other lengths
    follower.poll()
    write(run, [3, 4])
    follower.poll()
    assert steps(notebook) == [10, 20, 30, 40]


def test_a_damaged_file_is_named(run: RunDirectory) -> None:
    file = run.directory(AGENT).metrics_path
    file.parent.mkdir(parents=True)
    file.write_text('{"iteration": "one"}\n')
    with pytest.raises(ConfigError, match=r"01/metrics\.jsonl .*'one' for 'iteration'"):
        follow(run, Notebook()).poll()


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"store": "", "runs": {}}', '{"store": 1, "runs": {}, "sent": {}}'),
        *('{"store": "", "runs": {"env": 1}, "sent": {}}', '{"store": "", "runs": {}, "sent": {"env": "x"}}'),
    ],
)
def test_a_damaged_ledger_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match=r"own\.json is damaged: remove it"):
        Ledger(tmp_path / "own.json")
