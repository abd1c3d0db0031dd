#!/bin/bash
# benchmarl 1.5.2, vmas 1.5.2: a task of BenchMARL rewards other agents than the VMAS scenario whose name it has.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check vmas==1.5.2 pyyaml==6.0.3
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps benchmarl==1.5.2

cat <<'TEXT'
Source: BenchMARL's VMAS tasks are the scenarios of the same names; conf/task/vmas/<scenario>.yaml holds the arguments that
it makes each with, all of which the scenarios have defaults for.
Expected: `navigation` of a paper that used BenchMARL is `navigation` of VMAS, up to the number of agents and the time limit.
Seen: in five of 28 tasks BenchMARL shares the reward where VMAS pays each agent its own (discovery, dispersion, passage), or
pays each its own where VMAS shares it (navigation, sampling). Curves under one name are then of two different problems.
TEXT
PYTHONWARNINGS=ignore "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import distribution, version

import torch
import vmas
import yaml

OWN_IN_VMAS, SHARED_IN_VMAS = ("discovery", "dispersion", "passage"), ("navigation", "sampling")


def arguments(scenario):
    """What BenchMARL makes a scenario with."""
    path = f"benchmarl/conf/task/vmas/{scenario}.yaml"
    given = yaml.safe_load(distribution("benchmarl").locate_file(path).read_text())
    return {key: value for key, value in given.items() if key not in ("defaults", "max_steps")}


def shared(scenario, given):
    """How often all agents have the same reward where any has one: 300 steps of 256 environments, random actions."""
    torch.manual_seed(0)
    env = vmas.make_env(scenario, num_envs=256, seed=0, **given)
    alike = []
    for _ in range(300):
        _, rewards, _, _ = env.step([env.get_random_action(agent) for agent in env.agents])
        together = torch.stack(rewards)
        alike.append((together - rewards[0]).abs().amax(0)[together.abs().amax(0) > 0] < 1e-6)
    return float(torch.cat(alike).float().mean())


print(f"benchmarl {version('benchmarl')}, vmas {version('vmas')}, torch {torch.__version__}")
seen = {name: (shared(name, {}), shared(name, arguments(name))) for name in OWN_IN_VMAS + SHARED_IN_VMAS}
for name, (own, theirs) in seen.items():
    print(f"{name}: of steps that are rewarded, all agents have one reward in {own:.0%} in VMAS, {theirs:.0%} in BenchMARL")
as_described = all((own < theirs) == (name in OWN_IN_VMAS) and abs(own - theirs) > 0.5 for name, (own, theirs) in seen.items())
print("seen as described" if as_described else "no longer as described")
sys.exit(0 if as_described else 1)
PYTHON
