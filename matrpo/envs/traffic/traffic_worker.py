"""The worker process of `traffic_env.py`: `python -m matrpo.envs.traffic.traffic_worker NETWORK NUMBER SEED LENGTH`."""

from __future__ import annotations

import sys
from pathlib import Path

from matrpo.envs.traffic.episodes import Episodes
from matrpo.envs.workers.worker import Orders, serve


def _build() -> Orders:
    network, *numbers = sys.argv[1:]
    number, seed, length = map(int, numbers)
    episodes = Episodes(Path(network), number, seed, length)
    return {b"r": (None, episodes.reset), b"s": (episodes.joint_action, episodes.step)}


if __name__ == "__main__":
    serve(_build)
