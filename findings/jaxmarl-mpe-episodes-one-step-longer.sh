#!/bin/bash
# jaxmarl 0.2.0: an MPE episode lasts max_steps + 1 steps, one more than in mpe2 1.1.1 with the same limit.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jaxmarl==0.2.0 mpe2==1.1.1

cat <<'TEXT'
Source: JaxMARL's MPE environments take `max_steps` (25), described as the port of PettingZoo's MPE, whose `max_cycles`
(25) is the number of steps of an episode. JaxMARL compares the step counter with the limit before it counts the step.
Expected: an episode of simple_spread with a limit of n lasts n steps in both, so that returns can be compared.
Seen: n in mpe2, n + 1 in JaxMARL: a return over 26 steps in place of 25 is 4% larger in size.
TEXT
PYTHONWARNINGS=ignore JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import jax
import jaxmarl
from mpe2 import simple_spread_v3


def steps_of_jaxmarl(limit):
    env = jaxmarl.make("MPE_simple_spread_v3", max_steps=limit)
    key = jax.random.PRNGKey(0)
    _, state = env.reset(key)
    advance, steps, over = jax.jit(env.step_env), 0, False
    while not over:
        _, state, _, done, _ = advance(key, state, dict.fromkeys(env.agents, 0))
        steps, over = steps + 1, bool(done["__all__"])
    return steps


def steps_of_mpe2(limit):
    env = simple_spread_v3.parallel_env(max_cycles=limit)
    env.reset(seed=0)
    steps = 0
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
        steps += 1
    return steps


seen = True
for limit in (25, 10):
    theirs, original = steps_of_jaxmarl(limit), steps_of_mpe2(limit)
    print(f"limit {limit}: jaxmarl {version('jaxmarl')} {theirs} steps, mpe2 {version('mpe2')} {original} steps")
    seen = seen and theirs == limit + 1 and original == limit
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
