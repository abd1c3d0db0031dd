"""Settings of environments that a task cannot follow are refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Matrpo

BATCH = """
from matrpo.envs.games import *
from matrpo.envs.vector_env import VectorEnv
class Own(GameEnv):
    number_from = VectorEnv.number_from
def make(num_agents, num_envs, seed):
    return Own(OppositeHalves(), game_spec(OppositeHalves(), 2), num_envs)
"""


@pytest.mark.parametrize("algo", ["matrpo", "ippo"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (("--env-workers", 2), "cannot be split: expected 1 for 'env_servers', and no 'env_workers'"),
        (("--episode-length", 5), "ends its episodes itself: leave 'episode_length' out"),
    ],
)
def test_what_a_task_cannot_do_is_one_line(
    algo: str, setting: tuple[str, int], words: str, matrpo: Matrpo, tmp_path: Path
) -> None:
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(BATCH)
    graph = ("--topology", "line") if algo == "matrpo" else ()
    status, _, errors = matrpo("launch", "--algo", algo, "--task", f"{file}:make", *graph, *setting, "--run", run)
    assert (status, len(errors.splitlines())) == (2, 1)
    assert words in errors
    assert not run.exists()
