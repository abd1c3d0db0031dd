"""The worker process of `mamujoco.py`: `python -m matrpo.envs.mujoco.mamujoco_worker TASK FIRST STOP SEED`."""

from __future__ import annotations

import sys

from matrpo.envs.mujoco.mamujoco import Share
from matrpo.envs.workers.worker import Orders, serve


def _build() -> Orders:
    name, first, stop, seed = sys.argv[1:]
    share = Share(name, int(first), int(stop), int(seed))
    return {
        b"r": (None, share.reset),
        b"s": (share.joint_actions, share.step),
        b"g": (None, share.save),
        b"l": (share.saved, share.load),
    }


if __name__ == "__main__":
    serve(_build)
