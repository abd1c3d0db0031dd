#!/bin/bash
# mpe2 1.1.1: what simple_spread pays for covering landmarks in a step does not depend on the actions of that step.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mpe2==1.1.1

cat <<'TEXT'
Source: mpe2 is the home of PettingZoo's particle environments, which name OpenAI's multiagent-particle-envs as their
original. There a step accelerates a body and then moves it; mpe2's core moves it by the velocity that it had, and then
accelerates it (JaxMARL's port does the same).
Expected: actions change positions in the step that takes them, and so the reward for distances of that step.
Seen: after one step from the same start, positions and rewards are the same to the bit whatever agents do, and only
velocities differ; rewards differ from the second step on. Credit for an action is late by a step: a discount or lambda
of zero, a bandit's view of a step, or an action-value of the immediate reward has nothing to learn from.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from mpe2 import simple_spread_v3


def play(first_action):
    """Rewards and observations of two steps: every agent does `first_action`, then nothing."""
    env = simple_spread_v3.parallel_env(N=3, local_ratio=0.0)
    env.reset(seed=3)
    seen = []
    for action in (first_action, 0):
        observations, rewards, *_ = env.step(dict.fromkeys(env.agents, action))
        seen.append((np.stack(list(observations.values())), np.array(list(rewards.values()))))
    return seen


(stay_1, paid_1), (stay_2, paid_2) = play(0)
(move_1, moved_1), (move_2, moved_2) = play(2)
velocity, position = slice(0, 2), slice(2, 4)
print(f"mpe2 {version('mpe2')}, rewards after one step: staying {paid_1[0]:.6f}, moving {moved_1[0]:.6f}")
print(f"after two: {paid_2[0]:.6f}, {moved_2[0]:.6f}")
seen = (
    np.array_equal(paid_1, moved_1)
    and np.array_equal(stay_1[:, position], move_1[:, position])
    and not np.allclose(stay_1[:, velocity], move_1[:, velocity])
    and not np.allclose(paid_2, moved_2)
)
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
