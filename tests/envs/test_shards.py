"""Parts of a batch, simulated apart and put together: the same as the whole, to the bit."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from matrpo.envs.build import build_environment
from matrpo.envs.shards import join_lines, join_steps, take_share
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.errors import ConfigError
from matrpo.settings.config import Config

TASKS = [
    ("navigation", 3),
    ("treasure", 4),
    ("navigation", 9),
    ("mpe2/collect_treasure_v1", 12),
    ("game/opposite-halves", 4),
    ("mpe2/simple_speaker_listener_v4", None),
    ("mpe2/simple_tag_v3", None),
    ("mamujoco/Hopper-3x1", None),
]
B, STEPS = 4, 120


def make_shares(task: str, agents: int | None, servers: int, **changes: object) -> list[SharedEnvironment]:
    workers = 1 if task.startswith("mamujoco") else None
    config = Config(task=task, agents=agents, num_envs=B, env_servers=servers, env_workers=workers, seed=3, **changes)  # type: ignore[arg-type]
    return [build_environment(config, server=server) for server in range(servers)]


def advance(shares: list[SharedEnvironment], seed: int, last: bool) -> list[AgentStep]:
    """One step of all environments, by actions drawn for all of them; each agent's, put together."""
    spec, size = shares[0].spec, B // len(shares)
    draws = np.random.default_rng(seed).random((B, spec.joint_action_width))
    scale = np.concatenate([np.full(space.width, getattr(space, "n", 1.0)) for space in spec.action_spaces])
    actions = (draws * scale).astype(np.float32)
    if all(hasattr(space, "n") for space in spec.action_spaces):
        actions = np.floor(actions)
    parts = [share.step(actions[k * size : (k + 1) * size]) for k, share in enumerate(shares)]
    if len(shares) > 1:
        for share, steps in zip(shares, parts, strict=True):
            for step in steps:
                step.moments = share.moments if last else np.zeros((size, 3))
    return [join_steps(steps) for steps in zip(*parts, strict=True)]


def line(share: SharedEnvironment) -> dict[str, object]:
    return json.loads(json.dumps(take_share(share)))


SPLITS = [
    pytest.param(task, agents, servers, marks=[pytest.mark.slow] if (task[:8], servers) == ("mamujoco", 4) else [])
    for task, agents in TASKS
    for servers in (2, 4)
]
"""Tasks in two and in four parts; seven processes of mujoco are slow."""


@pytest.mark.parametrize(("task", "agents", "servers"), SPLITS)
def test_shares_put_together_are_the_whole(task: str, agents: int | None, servers: int) -> None:
    [whole], shares = make_shares(task, agents, 1), make_shares(task, agents, servers)
    try:
        whole.reset()
        for share in shares:
            share.reset()
        for t in range(STEPS):
            last = t == STEPS - 1
            for one, joined in zip(advance([whole], t, last), advance(shares, t, last), strict=True):
                for name, value in vars(one).items():
                    if name != "reward_scale" or last:
                        np.testing.assert_array_equal(getattr(joined, name), value, err_msg=name)
        lines = [line(share) for share in shares]
        assert join_lines(lines) == whole.take_metrics()
        assert [line(share)["episodes"] for share in shares] == [0] * servers
    finally:
        for share in (whole, *shares):
            share.env.close()


def test_a_line_of_two_servers_says_what_a_line_of_one_does() -> None:
    common = {"iteration": 2, "steps": 80}
    shares = make_shares("navigation", 3, 2)
    for share in shares:
        share.reset()
    lines = [
        {
            **common,
            "time": 5.0,
            **line(shares[0]),
            "agents_absent": 0,
            "steps_per_second": 10.0,
            "seconds_rollout": 1.0,
        },
        {
            **common,
            "time": 4.0,
            **line(shares[1]),
            "agents_absent": 1,
            "seconds_startup": 3.0,
            "steps_per_second": 30.0,
            "seconds_rollout": 2.0,
        },
    ]
    joined = join_lines(lines)
    assert joined.items() >= {**common, "time": 5.0, "agents_absent": 1, "steps_per_second": 40.0}.items()
    assert joined["team_return_mean"] is None
    assert joined["seconds_rollout"] == 2.0
    assert joined["seconds_startup"] == 3.0, "of a server that was started later than the other"
    assert "share" not in joined
    assert join_lines(lines[:1]) == lines[0]


def test_a_mask_that_one_part_has_allows_all_in_the_other() -> None:
    [step] = make_shares("game/opposite-halves", 2, 1)[0].reset()[:1]
    step.moments = np.zeros((B, 3))
    masked = AgentStep(**{**vars(step), "action_mask": np.zeros((B, 2), dtype=bool)})
    assert join_steps([step, step]).action_mask is None
    mask = join_steps([step, masked]).action_mask
    assert mask is not None
    assert mask.tolist() == [[True, True]] * B + [[False, False]] * B
    assert join_steps([step, step]).final_observation is None
    assert join_steps([step, step]).begins is None
    begins = join_steps([step, dataclasses.replace(step, begins=np.full(B, True))]).begins
    assert begins is not None
    assert begins.tolist() == [*step.ended, *[True] * B]


def test_a_task_whose_episodes_are_no_function_of_their_number_cannot_be_split(tmp_path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from matrpo.envs.games import *\nfrom matrpo.envs.vector_env import VectorEnv\n"
        "class Own(GameEnv):\n    number_from = VectorEnv.number_from\n"
        "def make(num_agents, num_envs, seed):\n"
        "    return Own(OppositeHalves(), game_spec(OppositeHalves(), 2), num_envs)\n"
    )
    assert len(make_shares(f"{file}:make", None, 1)) == 1
    with pytest.raises(ConfigError, match="cannot be split: expected 1 for 'env_servers'"):
        make_shares(f"{file}:make", None, 2)
