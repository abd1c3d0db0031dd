#!/bin/bash
# SuperSuit 3.11.0: black_death_v3 makes of a time limit, a truncation, one more step of zeros that ends in a termination.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  supersuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.3.0 numpy==2.4.6 pygame-ce==2.5.8 scipy==1.17.1

cat <<'TEXT'
Source: SuperSuit's documentation of black_death_v3: dead agents are no longer removed, their observations and rewards
are 0 and their actions ignored. It says nothing of episodes in which nobody dies.
Expected: nobody dies before the time limit, so that the wrapped episode is the plain one: as many steps, a truncation,
and last observations that a learner can bootstrap from.
TEXT
SDL_VIDEODRIVER=dummy PYGAME_HIDE_SUPPORT_PROMPT=1 PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from pettingzoo.sisl import pursuit_v5
from supersuit import black_death_v3

LIMIT = 5


def end(env):
    """Stand still to the end of an episode: its steps, the flags of its last step, and whether all then see zeros."""
    env.reset(seed=0)
    steps = 0
    while env.agents:
        observations, _, terminated, truncated, _ = env.step(dict.fromkeys(env.agents, 4))
        steps += 1
    blind = not any(np.any(seen) for seen in observations.values())
    return steps, all(terminated.values()), all(truncated.values()), blind


print("SuperSuit", version("supersuit"), "with PettingZoo", version("pettingzoo"))
print(f"pursuit_v5 with max_cycles={LIMIT}; an episode's steps, all terminated, all truncated, last observations all 0:")
plain = end(pursuit_v5.parallel_env(max_cycles=LIMIT))
wrapped = end(black_death_v3(pursuit_v5.parallel_env(max_cycles=LIMIT)))
print("  as it is:       ", plain)
print("  black_death_v3: ", wrapped)
seen = plain == (LIMIT, False, True, False) and wrapped[0] == LIMIT + 1 and wrapped[1] and wrapped[3]
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
