"""The worker process of `football_env.py`; `FootballEnv` says what its arguments are."""

from __future__ import annotations

import dataclasses
import sys

from matrpo.envs.football.family import FAMILY
from matrpo.envs.football.share import Share
from matrpo.envs.workers.worker import Orders, serve


def _build() -> Orders:
    name, *numbers = sys.argv[1:]
    num_agents, length, first, stop, seed = map(int, numbers)
    task = FAMILY.find(name)
    assert task is not None
    share = Share(dataclasses.replace(task.spec(num_agents), episode_length=length), first, stop, seed)

    def make_room() -> None:
        share.make_room()
        table[b"l"] = (share.saved, share.load)

    table: Orders = {
        b"r": (None, share.reset),
        b"s": (share.joint_actions, share.step),
        b"m": (None, share.measure),
        b"w": (share.width, make_room),
        b"g": (None, share.save),
    }
    return table


if __name__ == "__main__":
    serve(_build)
