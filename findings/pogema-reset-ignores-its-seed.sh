#!/bin/bash
# pogema 1.4.0: reset(seed=s) changes nothing: without a seed in GridConfig no map comes back, with one all are the same.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pogema==1.4.0

cat <<'TEXT'
Source: the documentation of reset in PettingZoo's parallel API and in Gymnasium's Env, whose parameter `seed` decides
what is random in the episode; pogema's own reset has the parameter, and does not warn of one.
Expected: reset(seed=s) gives the same map for equal s, and other maps for other s.
Cause: Pogema.reset builds the grid from GridConfig.seed, and only then writes `seed` to an attribute that nobody reads.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from pogema import GridConfig, pogema_v0

SEEDS = range(20)


def make(integration, **options):
    return pogema_v0(GridConfig(num_agents=2, size=8, integration=integration, **options))


def first(env, seed):
    """The first observations of all agents, as bytes."""
    observations, _ = env.reset(seed=seed)
    values = observations.values() if isinstance(observations, dict) else observations
    return b"".join(np.asarray(value).tobytes() for value in values)


print("pogema", version("pogema"))
seen = True
for integration in ("gymnasium", "PettingZoo"):
    equal = sum(first(make(integration), seed) == first(make(integration), seed) for seed in SEEDS)
    env = make(integration, seed=1)
    different = len({first(env, seed) for seed in SEEDS})
    print(f"integration={integration!r}: the same seed twice, equal for {equal} of 20 seeds")
    print(f"  with GridConfig(seed=1), reset with 20 seeds: {different} different first observations")
    seen = seen and equal < 20 and different == 1
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
