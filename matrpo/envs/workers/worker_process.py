"""The worker process of `worker_env.py`; `WorkerEnv` says what its arguments are."""

from __future__ import annotations

import sys

from matrpo.envs.registry import make_env
from matrpo.envs.workers.shared_batch import SharedBatch
from matrpo.envs.workers.worker import Orders, serve


def _build() -> Orders:
    task, *rest = sys.argv[1:]
    num_agents, num_envs, workers, worker, first, stop, seed, number, length, descriptor = map(int, rest)
    env = make_env(task, num_agents, stop - first, seed, first=number + first, episode_length=length or None)
    batch, rows = SharedBatch(env.spec, num_envs, workers, descriptor), slice(first, stop)

    def reset() -> None:
        env.reset()
        batch.put(worker, rows, env, None)

    def step() -> None:
        batch.put(worker, rows, env, env.step(batch.joint_action[rows]))

    return {b"r": (None, reset), b"s": (None, step)}


if __name__ == "__main__":
    serve(_build)
