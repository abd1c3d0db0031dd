#!/bin/bash
# lbforaging 2.0.0: reset(seed=s) is not the same episode twice, since the players of the last one stand in the way.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lbforaging==2.0.0 gymnasium==1.3.0 numpy==2.4.6

cat <<'TEXT'
Source: Gymnasium's documentation of Env.reset: a seed resets the random number generator, so that the episode is a
function of the seed and the actions; its environment checker asks for equal observations after reset(seed=123) twice.
Expected: reset(seed=s) gives the same first observations however often it is called, and whatever came before.
Cause: spawn_players asks _is_empty_location for a free place while players that are yet to be placed still have the
position that they had in the episode before: their old places are taken, and the draws go on to others.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import gymnasium
import lbforaging  # registers its environments
import numpy as np

TASK = "Foraging-8x8-2p-1f-v3"
SEEDS = range(100)


def first(env, seed):
    observations, _ = env.reset(seed=seed)
    return np.concatenate(observations)


print("lbforaging", version("lbforaging"), "with gymnasium", version("gymnasium"))
fresh = [first(gymnasium.make(TASK), seed) for seed in SEEDS]
again = [first(gymnasium.make(TASK), seed) for seed in SEEDS]
print("two new environments, the same seed: equal for", sum(map(np.array_equal, fresh, again)), "of 100 seeds")

env = gymnasium.make(TASK)
twice = sum(np.array_equal(first(env, seed), first(env, seed)) for seed in SEEDS)
print("one environment, reset(seed=s) twice in a row: equal for", twice, "of 100 seeds")

env = gymnasium.make(TASK)
one_after_another = [first(env, seed) for seed in SEEDS]
late = sum(map(np.array_equal, fresh, one_after_another))
print("one environment, seeds one after another, against new ones: equal for", late, "of 100 seeds")

seen = sum(map(np.array_equal, fresh, again)) == 100 and twice == 0 and late < 100
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
