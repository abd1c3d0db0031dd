#!/bin/bash
# rware 2.0.0 and lbforaging 2.0.0: the time limit is reported as a termination, with truncated=False.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  rware==2.0.0 lbforaging==2.0.0 gymnasium==1.3.0 numpy==2.4.6

cat <<'TEXT'
Source: Gymnasium's documentation of Env.step: `truncated` says whether a condition outside the scope of the task, such
as a time limit, was met; its tutorial "Handling Time Limits" says why a learner that bootstraps has to know which.
Expected: standing still until the time limit ends the episode with terminated=False, truncated=True.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import gymnasium
import lbforaging  # both register their environments
import rware

STILL = 0  # "no-op" of rware, "none" of lbforaging


def end(env):
    """Stand still to the end of an episode: its steps, the sum of rewards, and the two flags."""
    env.reset(seed=0)
    steps, total, terminated, truncated = 0, 0.0, False, False
    while not (terminated or truncated):
        _, rewards, terminated, truncated, _ = env.step((STILL, STILL))
        steps, total = steps + 1, total + sum(rewards)
    return steps, total, bool(terminated), bool(truncated)


seen = True
for package, task in (("rware", "rware-tiny-2ag-v2"), ("lbforaging", "Foraging-8x8-2p-1f-v3")):
    env = gymnasium.make(task)
    steps, total, terminated, truncated = end(env)
    again = end(env)[0]
    print(f"{package} {version(package)}, {task}: over after {steps} steps, the next after {again}, rewards {total:g}")
    print(f"  terminated={terminated}, truncated={truncated}")
    seen = seen and steps == again and terminated and not truncated
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
