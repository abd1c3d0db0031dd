from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from matrpo.launch.screen.progress import Progress
from matrpo.launch.screen.screen import LiveScreen, PlainScreen, draw, plain_line, sparkline
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config

AGENT = {
    "kl": 0.00301,
    "surrogate": 0.5,
    "consensus_residual": 0.0123,
    "fisher_products": 48,
    "bytes_sent": 2_500_000,
    "critic_loss": 0.25,
    "step_fraction": 0.5,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", Config(agents=12, steps=100_000), {})


def write(run: RunDirectory, iterations: range, agents: int = 12) -> None:
    """Write an iteration every 20 seconds; in the last of them only some agents are done."""
    for iteration in iterations:
        seconds = {"iteration": iteration, "time": 20.0 * iteration}
        team_return = None if iteration == 2 else -200.0 + 10 * iteration
        run.env.log_metrics(seconds | {"team_return_mean": team_return, "steps_per_second": 1.0})
        for agent in range(agents if iteration == iterations[-1] else 12):
            run.agent(agent).log_metrics(seconds | AGENT)


def drawn(progress: Progress, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(draw(progress, width, height))
    return capture.get().splitlines()


def test_a_new_run(run: RunDirectory) -> None:
    progress = Progress(run)
    progress.poll()
    assert (progress.iteration, progress.steps, progress.phase) == (0, 0, "rollout 1")
    assert progress.steps_per_second is progress.seconds_left is progress.latest_return is progress.best_return is None
    assert len(drawn(progress, 80, 24)) <= 24


def test_progress_is_what_all_agents_have_done(run: RunDirectory) -> None:
    write(run, range(1, 5), agents=5)
    progress = Progress(run)
    progress.poll()
    assert (progress.iteration, progress.steps, progress.total_steps) == (3, 30_000, 100_000)
    assert progress.phase == "update 4, 5 of 12 agents done"
    assert (progress.steps_per_second, progress.seconds_left) == (500.0, 140.0)
    assert (progress.latest_return, progress.best_return) == (-160.0, -160.0)
    assert progress.summary()["iteration"] == 3


def test_a_finished_run(run: RunDirectory) -> None:
    write(run, range(1, 11))
    progress = Progress(run)
    progress.poll()
    assert progress.finished
    assert (progress.phase, progress.seconds_left) == ("finished", 0.0)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (80, 16), (60, 12), (200, 60)])
def test_the_screen_fits_the_terminal(run: RunDirectory, width: int, height: int) -> None:
    write(run, range(1, 5), agents=5)
    progress = Progress(run)
    progress.poll()
    lines = drawn(progress, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for fact in ("navigation", "12 agents", "ring", "30,000 of 100,000", "500 steps/s", "2:20 left", "-160"):
        assert fact in text
    if width >= 80:
        assert "2.5 MB" in text
        assert "0.00301" in text
    shown = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0].isdigit()]
    hidden = [line.split()[0] for line in lines if line.strip().startswith("+")]
    assert len(shown) + sum(map(int, hidden)) == 12
    assert (height >= 24) == (hidden == [])


def test_numbers_of_any_size_leave_the_heads_of_the_columns_whole(run: RunDirectory) -> None:
    seconds = {"iteration": 1, "time": 20.0}
    run.env.log_metrics(seconds | {"team_return_mean": -357.6, "steps_per_second": 1.0})
    for agent in range(12):
        run.agent(agent).log_metrics(seconds | AGENT | {"surrogate": -2.75e41, "critic_loss": 1854.4})
    progress = Progress(run)
    progress.poll()
    text = "\n".join(drawn(progress, 80, 24))
    for fact in ("-2.75e+41", "1854.4", "surrogate", "residual", "step"):
        assert fact in text


def test_the_plain_line_says_the_same(run: RunDirectory) -> None:
    write(run, range(1, 5))
    progress = Progress(run)
    progress.poll()
    assert plain_line(progress) == (
        "iteration 4/10  steps 40,000  return -160.0  kl 0.00301  residual 0.0123  sent 30 MB  500 steps/s  left 2:00"
    )


@pytest.fixture
def central(tmp_path: Path) -> Progress:
    """A run of HATRPO with 12 agents after three iterations."""
    run = RunDirectory.create(tmp_path / "central", Config(algo="hatrpo", agents=12, steps=100_000), {})
    learning = {"kl": 0.00301, "entropy": 1.58, "ratio_max": 1.27, "surrogate": 0.5, "fisher_products": 3}
    for iteration in range(1, 4):
        seconds = {"iteration": iteration, "time": 20.0 * iteration}
        run.env.log_metrics(seconds | {"team_return_mean": -160.0})
        for agent in range(12):
            run.agent(agent).log_metrics(seconds | learning)
        run.trainer.log_metrics(seconds | {"critic_loss": 0.0, "explained_variance": 0.8, "seconds_update": 1.5})
    progress = Progress(run)
    progress.poll()
    return progress


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (80, 16)])
def test_central_training_shows_what_there_is_of_it(central: Progress, width: int, height: int) -> None:
    lines = drawn(central, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "navigation, 12 agents, hatrpo" in text
    assert "training    critic 0  explained variance 0.8" in text
    assert "rollout and update 4" in text
    for word in ("ring", "residual", "sent", "links", "step "):
        assert word not in text
    header = next(line.split() for line in lines if line.strip().startswith("agent"))
    assert header == ["agent", "iteration", "KL", "entropy", "max", "ratio", "surrogate", "Fisher"]


def test_the_plain_line_of_central_training(central: Progress) -> None:
    assert plain_line(central) == (
        "iteration 3/10  steps 30,000  return -160.0  kl 0.00301  entropy 1.58  ratio 1.27  critic 0  500 steps/s  "
        "left 2:20"
    )


def test_a_new_run_of_central_training(tmp_path: Path) -> None:
    progress = Progress(RunDirectory.create(tmp_path / "new", Config(algo="happo", agents=3), {}))
    progress.poll()
    assert progress.phase == "rollout and update 1"
    text = "\n".join(drawn(progress, 80, 24))
    assert "rollout and update 1" in text
    assert not any(line.split()[:1] in (["training"], ["agent"]) for line in text.splitlines())
    assert "critic" not in plain_line(progress)


def test_plain_lines_appear_once_each(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, range(1, 3))
    with PlainScreen(run) as screen:
        screen.tick()
        write(run, range(3, 6))
        screen.tick()
        screen.tick()
        screen.say("hello")
    shown = [line[:14] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["iteration 3/10", "iteration 4/10", "iteration 5/10", "hello"]


@pytest.mark.parametrize("returns_at", [4, None])
def test_plain_lines_go_on_without_an_agent_that_misses_iterations(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], returns_at: int | None
) -> None:
    """Agent 3 misses iterations 2 and 3, or all after the first."""
    screen = PlainScreen(run)
    for iteration in range(1, 7):
        line = {"iteration": iteration, "time": 20.0 * iteration}
        run.env.log_metrics(line | {"team_return_mean": -1.0, "steps_per_second": 1.0})
        for agent in range(12):
            if agent != 3 or iteration == 1 or (returns_at and iteration >= returns_at):
                run.agent(agent).log_metrics(line | AGENT)
        screen.tick()
    shown = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"{iteration}/10" for iteration in range(1, 7)]


def test_a_task_whose_episodes_never_end_is_hinted_at_once(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "no episode has ended in 1,000 steps of each environment: --episode-length cuts episodes off"
    screen = PlainScreen(run)
    for iteration in range(1, 13):
        run.env.log_metrics({"iteration": iteration, "time": 1.0 * iteration, "team_return_mean": None})
        for agent in range(12):
            run.agent(agent).log_metrics({"iteration": iteration, "time": 1.0 * iteration, **AGENT})
        screen.tick()
    lines = capsys.readouterr().err.splitlines()
    assert lines.index(hint) == 10
    assert len(lines) == 13
    progress = Progress(run)
    progress.poll()
    assert "no episode has ended" in "".join(drawn(progress, 120, 24))


def test_the_live_screen_survives_words_and_ticks(run: RunDirectory) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=80, height=24)
    with LiveScreen(run, console) as screen:
        write(run, range(1, 3))
        screen.tick()
        screen.say("[not markup]")
    assert isinstance(console.file, io.StringIO)
    assert "[not markup]" in console.file.getvalue()


def test_sparkline() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([1.0, 1.0], 5) == "▁▁"
    assert sparkline([9.0, 0.0, 3.5, 7.0], 3) == "▁▅█"
