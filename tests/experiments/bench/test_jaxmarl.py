"""The bench beside JaxMARL, on a checkout that the test writes: scripts of JaxMARL's shape, and what they need of JAX.

The driver runs in a process of its own, as it does with JaxMARL.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from matrpo.algorithms.shared.on_policy import OnPolicy
from matrpo.errors import ConfigError
from matrpo.experiments.bench.command import bench
from matrpo.experiments.bench.jaxmarl import BASELINES, Checkout, our_settings, run
from matrpo.experiments.bench.throughput import number_of_parameters
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import CentralTraining

JAX = """
from types import SimpleNamespace
random = SimpleNamespace(PRNGKey=int)
jit = lambda train: SimpleNamespace(lower=lambda key: SimpleNamespace(compile=lambda: train))
block_until_ready = lambda outcome: outcome
effects_barrier = lambda: None
"""

BASELINE = """
from types import SimpleNamespace
import numpy as np
import wandb

def make_train(config):
    updates = int(config["TOTAL_TIMESTEPS"]) // config["NUM_ENVS"] // config["NUM_STEPS"]

    def train(key):
        for update in range(updates):
            wandb.log({"returns": np.full(3, update + key)})
        actor = SimpleNamespace(params={"layer": {"kernel": np.zeros((18, 5)), "bias": np.zeros(5)}})
        critic = SimpleNamespace(params={"layer": {"kernel": np.zeros((54, 1))}})
        episodes = SimpleNamespace(returned_episode_lengths=np.array([[25.0, 27.0]]))
        return {"runner_state": (((actor, critic), episodes), 7)}

    return train
"""

SETTINGS = """
LR: 2e-3
ANNEAL_LR: True
NUM_ENVS: 16
NUM_STEPS: 128
TOTAL_TIMESTEPS: 1e7
UPDATE_EPOCHS: 4
NUM_MINIBATCHES: 4
GAMMA: 0.99
GAE_LAMBDA: 0.95
CLIP_EPS: 0.2
ENT_COEF: 0.01
MAX_GRAD_NORM: 0.5
ENV_NAME: MPE_simple_spread_v3
ENV_KWARGS: {num_agents: 4}
"""

IPPO = BASELINES["ippo"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout."""
    (tmp_path / "jax.py").write_text(JAX)
    (tmp_path / "wandb.py").touch()
    for baseline in BASELINES.values():
        for file, text in ((baseline.script, BASELINE), (baseline.settings, SETTINGS)):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
    return tmp_path


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**Checkout.at(folder, None).settings(IPPO), "SEED": 0, **changes}


def test_a_run_is_measured_in_a_process_of_its_own(folder: Path) -> None:
    figures = Checkout.at(folder, None).train(IPPO, settings_of(folder, TOTAL_TIMESTEPS=30 * 16 * 128, SEED=100))
    assert figures["updates"] == 30
    assert figures["return"] == pytest.approx(100 + sum(range(20, 30)) / 10)
    assert figures["episode_steps"] == 26
    assert figures["parameters"] == 18 * 5 + 5 + 54
    assert min(figures[name] for name in ("seconds", "processor", "compile")) >= 0
    assert 5 < figures["memory"] < 500


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import module_of_theirs", "has no module 'module_of_theirs', which baselines.IPPO.ippo_ff_mpe needs"),
        ("import wandb", "baselines.IPPO.ippo_ff_mpe has no make_train"),
        ("make_train = None", "has no wandb to log its returns to"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import wandb\ndef make_train(config, env): ...", "fails with the settings of its file: TypeError: make_t"),
        ("import wandb\ndef make_train(config): config['WIDTH']", "of its file: KeyError: 'WIDTH'"),
        (
            "import wandb\ndef make_train(config): return lambda key: {'runner_state': ()}",
            "return and log what is expected: KeyError: 'no returns, no returned_episode_lengths, or no params'",
        ),
        (
            "import wandb\ndef make_train(config): return lambda key: wandb.log({'loss': 1.0}) or {'runner_state': ()}",
            "does not return and log what is expected: KeyError: 'returned_episode_returns'",
        ),
        ("import wandb\ndef make_train(config): return lambda key: {}", "is expected: KeyError: 'runner_state'"),
        ("import wandb\ndef make_train(config): return lambda key: 1 / 0", "settings of its file: ZeroDivisionError"),
        ("import os\nos._exit(3)", "ended with status 3"),
    ],
)
def test_a_script_that_is_not_as_expected_is_told_in_one_line(folder: Path, script: str, reason: str) -> None:
    (folder / IPPO.script).write_text(script)
    with pytest.raises(ConfigError, match=reason) as raised:
        Checkout.at(folder, None).train(IPPO, settings_of(folder))
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_missing_jax_is_told(folder: Path) -> None:
    (folder / "jax.py").write_text("import jaxlib_of_theirs")
    with pytest.raises(ConfigError, match="has no module 'jaxlib_of_theirs', which jax needs"):
        Checkout.at(folder, None).train(IPPO, settings_of(folder))


@pytest.mark.parametrize(
    "file", [file for baseline in BASELINES.values() for file in (baseline.script, baseline.settings)]
)
def test_a_folder_without_the_baselines_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=f"there is no {file}: expected a checkout of JaxMARL"):
        Checkout.at(folder, None)


def test_settings_that_are_no_numbers_are_refused(folder: Path) -> None:
    text = SETTINGS.replace("GAMMA: 0.99", "GAMMA: high")
    (folder / IPPO.settings).write_text(text)
    with pytest.raises(ConfigError, match=r"ippo_ff_mpe.yaml: GAMMA is 'high': expected a number"):
        settings_of(folder)
    (folder / IPPO.settings).write_text(text.replace("GAMMA", "DISCOUNT"))
    with pytest.raises(ConfigError, match=r"GAMMA is None: expected a number"):
        settings_of(folder)


def test_the_interpreter_is_the_given_one_or_the_checkouts_or_this(folder: Path) -> None:
    assert Checkout.at(folder, None).python == Path(sys.executable)
    own = folder / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert Checkout.at(folder, None).python == own, "a link that is followed leads out of its environment"
    assert Checkout.at(folder, Path("/bin/sh")).python == Path("/bin/sh")
    for wrong in (folder, folder / "jax.py", folder / "nothing"):
        with pytest.raises(ConfigError, match=f"--jaxmarl-python {wrong}: expected a Python interpreter"):
            Checkout.at(folder, wrong)


def test_a_baseline_that_makes_other_updates_is_refused_before_ours_is_trained(folder: Path) -> None:
    (folder / IPPO.script).write_text(BASELINE.replace("range(updates)", "range(updates + 1)"))
    with pytest.raises(ConfigError, match="ippo_ff_mpe made 4 updates, expected 3"):
        run(1, 1, folder, None, quick=True, say=lambda _: None)


def test_an_interpreter_without_a_checkout_is_refused() -> None:
    with pytest.raises(ConfigError, match="--jaxmarl-python is for --jaxmarl DIR"):
        CliRunner().invoke(bench, ["throughput", "--jaxmarl-python", sys.executable], catch_exceptions=False)


def test_numbers_of_the_file_are_numbers_and_reach_both_sides(folder: Path) -> None:
    theirs = settings_of(folder)
    assert (theirs["LR"], theirs["TOTAL_TIMESTEPS"]) == (2e-3, 1e7), "YAML alone takes both for texts"
    assert theirs["ENV_NAME"] == "MPE_simple_spread_v3"
    ours = resolve(("bench", our_settings("ippo", theirs)))
    assert (ours.actor_lr, ours.critic_lr, ours.lr_decay, ours.max_grad_norm) == (2e-3, 2e-3, True, 0.5)
    assert (ours.gamma, ours.gae_lambda, ours.entropy_coef) == (0.99, 0.95, 0.01)
    assert (ours.clip_range, ours.value_clip, ours.clip_scaling) == (0.2, 0.2, "none")
    assert (ours.samples, ours.policy_epochs, ours.critic_epochs) == (2048, 4, 4)
    assert (ours.feature_normalization, ours.reward_scaling, ours.huber_delta) == (False, False, None)
    scaled = resolve(("bench", our_settings("mappo", theirs | {"SCALE_CLIP_EPS": True, "ANNEAL_LR": False})))
    assert (scaled.clip_scaling, scaled.lr_decay) == ("per-agent", False)


def layer(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def gru(size: int) -> int:
    """Flax's: three gates of the input with biases, three of the state of which one has a bias."""
    return 3 * layer(size, size) + 3 * size * size + size


PARAMETERS = {
    "ippo": sum(layer(18, 64) + layer(64, 64) + layer(64, outputs) for outputs in (5, 1)),
    "mappo": sum(
        layer(inputs, 128) + gru(128) + layer(128, 128) + layer(128, outputs) for inputs, outputs in ((18, 5), (54, 1))
    ),
}
"""How many JaxMARL's networks have, by its scripts."""

MORE_BIASES = {"ippo": 0, "mappo": 2 * 2 * 128}
"""Those of two gates of each GRU, which stand beside another bias that is added to the same sum."""


@pytest.mark.parametrize("algo", BASELINES)
def test_both_sides_have_the_same_networks_and_make_the_same_gradient_steps(folder: Path, algo: str) -> None:
    theirs = settings_of(folder, NUM_ENVS=4, NUM_STEPS=8)
    config = resolve(("bench", {**our_settings(algo, theirs), "tensorboard": False, "steps": 32}))
    training = CentralTraining(RunDirectory.create(folder / "run", config, {}))
    assert isinstance(training.algorithm, OnPolicy)
    assert number_of_parameters(training.algorithm) == PARAMETERS[algo] + MORE_BIASES[algo]
    training.iterate()
    for optimizer in (training.algorithm.learners[0].optimizer, training.algorithm.critics[0].optimizer):
        assert {int(state["step"]) for state in optimizer.state.values()} == {4 * 4}
    assert len(training.algorithm.learners) == len(training.algorithm.critics) == 1


@pytest.mark.slow
def test_both_sides_are_trained_and_compared(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    arguments = ["throughput", "--jaxmarl", str(folder), "--quick", "--json", str(path)]
    result = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    document = json.loads(path.read_text())
    [rows] = document["tables"].values()
    assert [(row["algorithm"], row["side"]) for row in rows] == [
        (algo, side) for algo in BASELINES for side in ("JaxMARL", "matrpo", "ratio")
    ]
    for theirs, ours, ratio in (rows[:3], rows[3:]):
        for figure in ("steps_per_s", "CPU_s_per_1000_steps", "peak_MiB"):
            assert ratio[figure] == pytest.approx(ours[figure] / theirs[figure])
        assert (theirs["return"], theirs["episode_steps"], theirs["parameters"]) == (1.0, 26, 149)
        assert (ours["episode_steps"], ours["parameters"]) == (
            25,
            PARAMETERS[ours["algorithm"]] + MORE_BIASES[ours["algorithm"]],
        )
        assert -300 < ours["return"] < -20
    theirs = document["settings"]["ippo"]["JaxMARL"]
    assert (theirs["TOTAL_TIMESTEPS"], theirs["ENV_KWARGS"]) == (3 * 128, {}), "three agents, as ours"
    assert "CPU s per" in result.stdout
