#!/bin/bash
# vmas 1.5.2: reset_at(i) does not begin an episode of environment i as reset() does, nor of that environment alone.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check vmas==1.5.2

cat <<'TEXT'
Source: VMAS's environment resets "the environment at index" by `reset_at(index)`, which its wrappers call for each
environment of a batch whose episode is over, while the others go on.
Expected: environment i begins a new episode, drawn as `reset()` draws one, and no other environment is touched.
Seen: in simple_push and simple_adversary the goal is drawn by `reset()` alone: after any number of `reset_at` it is that
of the first episode, the same in all environments of the batch. In het_mass `reset_at(0)` draws the masses of the
agents anew, in all environments, in the middle of their episodes.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
import vmas


def goals(scenario, again):
    """The numbers of the landmarks that were the goal in 30 episodes."""
    env = vmas.make_env(scenario, num_envs=4, seed=0)
    seen = set()
    for _ in range(30):
        env.reset() if again else [env.reset_at(i) for i in range(4)]
        goal = next(agent.goal for agent in env.world.agents if getattr(agent, "goal", None) is not None)
        seen.add(env.world.landmarks.index(goal))
    return seen


def masses():
    """The masses of het_mass's agents before and after environment 0 alone begins an episode."""
    env = vmas.make_env("het_mass", num_envs=4, seed=0)
    before = [float(agent.mass) for agent in env.agents]
    env.reset_at(0)
    return before, [float(agent.mass) for agent in env.agents]


print(f"vmas {version('vmas')}, torch {torch.__version__}")
seen = True
for scenario in ("simple_push", "simple_adversary"):
    each, whole = goals(scenario, again=False), goals(scenario, again=True)
    print(f"{scenario}: landmarks that were the goal: {sorted(whole)} by reset(), {sorted(each)} by reset_at()")
    seen = seen and len(whole) > 1 and len(each) == 1
before, after = masses()
print(f"het_mass: masses {before}, after reset_at(0) {after}, one number for all environments")
seen = seen and before != after
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
