"""Training by IPPO and MAPPO beside JaxMARL's own baselines, with the settings that their files give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrpo.errors import ConfigError
from matrpo.experiments.bench import jaxmarl_driver
from matrpo.experiments.bench.report import Goal, Report, Row, Say
from matrpo.experiments.bench.throughput import AGENTS, TASK, WARM_UP, in_own_process, medians
from matrpo.settings.config import load_file

_TIMES_PROCESSOR = 1.5
_TIMES_SECONDS = 2.0
"""What the processor time and the wall-clock time of a step may be, as multiples of JaxMARL's."""

_NUMBERS = (
    *("LR", "ANNEAL_LR", "NUM_ENVS", "NUM_STEPS", "UPDATE_EPOCHS", "NUM_MINIBATCHES"),
    *("GAMMA", "GAE_LAMBDA", "CLIP_EPS", "ENT_COEF", "MAX_GRAD_NORM"),
)
"""What a baseline's file has to say for ours to be set alike."""

_FIXED = {
    **{"ENV_NAME": "MPE_simple_spread_v3", "ENV_KWARGS": {}},
    **{"ACTIVATION": "tanh", "FC_DIM_SIZE": 128, "GRU_HIDDEN_DIM": 128},
}
"""What a baseline's file may not change: the task, and the networks of `Baseline.networks`."""

_QUICK = {"NUM_ENVS": 4, "NUM_STEPS": 32}


@dataclass(frozen=True)
class Baseline:
    """A script of JaxMARL, and the networks that it has.

    Attributes:
        script, settings: the files in a checkout.
        networks: the settings of ours that make networks of the same layers.
        samples: how many samples our critic is fitted to for each step of an environment.
    """

    script: str
    settings: str
    networks: Mapping[str, Any]
    samples: int

    @property
    def module(self) -> str:
        """The script's name for an import from the checkout's folder."""
        return self.script.removesuffix(".py").replace("/", ".")


BASELINES = {
    "ippo": Baseline(
        "baselines/IPPO/ippo_ff_mpe.py",
        "baselines/IPPO/config/ippo_ff_mpe.yaml",
        {"hidden_sizes": (64, 64), "activation": "tanh", "recurrent_layers": 0},
        samples=AGENTS,
    ),
    "mappo": Baseline(
        "baselines/MAPPO/mappo_rnn_mpe.py",
        "baselines/MAPPO/config/mappo_homogenous_rnn_mpe.yaml",
        {"hidden_sizes": (128, 128), "activation": "relu", "recurrent_layers": 1},
        samples=1,
    ),
}
"""The baselines by our name of the algorithm. MAPPO's sees one state for all agents, and gets it three times over."""


@dataclass(frozen=True)
class Checkout:
    """JaxMARL on this machine.

    Attributes:
        folder: where its files are.
        python: an interpreter that has what it imports.
    """

    folder: Path
    python: Path

    @classmethod
    def at(cls, folder: Path, python: Path | None) -> Checkout:
        """A checkout whose baselines are there.

        Args:
            folder: where it is.
            python: the interpreter; None for the checkout's own in .venv, or else the one that runs this.

        Raises:
            ConfigError: a script, a file of settings, or the interpreter is missing.
        """
        own = folder / ".venv/bin/python"
        checkout = cls(folder.absolute(), (python or (own if own.exists() else Path(sys.executable))).absolute())
        for baseline in BASELINES.values():
            for file in (baseline.script, baseline.settings):
                if not (folder / file).is_file():
                    raise ConfigError(f"--jaxmarl {folder}: there is no {file}: expected a checkout of JaxMARL")
        if not os.access(checkout.python, os.X_OK) or checkout.python.is_dir():
            raise ConfigError(f"--jaxmarl-python {checkout.python}: expected a Python interpreter")
        return checkout

    def settings(self, baseline: Baseline) -> dict[str, Any]:
        """The settings that a baseline's file gives: numbers as numbers, where YAML takes 1e7 for a text.

        Raises:
            ConfigError: it is no YAML mapping, or lacks what ours are set by.
        """
        file = self.folder / baseline.settings
        settings = {key: _number(value) for key, value in load_file(file).items()}
        for key in _NUMBERS:
            if not isinstance(settings.get(key), int | float):
                raise ConfigError(f"{file}: {key} is {settings.get(key)!r}: expected a number")
        return settings

    def train(self, baseline: Baseline, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Train once by a baseline, in a process of its own, on the processor.

        Returns:
            What `jaxmarl_driver` prints.

        Raises:
            ConfigError: it cannot be imported, or does something else than expected.
        """
        program = Path(jaxmarl_driver.__file__).read_text()
        done = subprocess.run(
            [self.python, "-c", program, self.folder, baseline.module, json.dumps(settings)],
            cwd=self.folder,
            env={"JAX_PLATFORMS": "cpu", **os.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() if done.returncode == 1 else []
            why = said[-1] if said else f"{baseline.module} ended with status {done.returncode}"
            raise ConfigError(f"--jaxmarl {self.folder}: {why}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def commit(self) -> str:
        """Which commit it is, or `unknown` where git does not say."""
        command = ["git", "-C", str(self.folder), "rev-parse", "HEAD"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"


def run(repeats: int, iterations: int, folder: Path, python: Path | None, quick: bool, say: Say) -> Report:
    """Train by each baseline and by our algorithm of that name in turn.

    Args:
        repeats: runs of each side, with the seeds 0, 1, ...
        iterations: those measured of our runs, after a few that are not; a baseline's run of as many is measured whole.
        folder, python: as of `Checkout.at`.
        quick: tiny sizes.
        say: told about the progress.

    Raises:
        ConfigError: the checkout or its interpreter is not what is expected.
    """
    checkout = Checkout.at(folder, python)
    repeats, iterations = (1, 1) if quick else (repeats, iterations)
    rows: list[Row] = []
    goals: list[Goal] = []
    used: dict[str, Any] = {"repeats": repeats, "iterations": iterations, "warm_up": WARM_UP}
    used["JaxMARL"] = checkout.commit()
    for algo, baseline in BASELINES.items():
        theirs = checkout.settings(baseline) | _FIXED | (_QUICK if quick else {})
        samples = theirs["NUM_ENVS"] * theirs["NUM_STEPS"]
        theirs["TOTAL_TIMESTEPS"] = samples * (WARM_UP + iterations)
        ours = our_settings(algo, theirs)
        of_theirs, of_ours = [], []
        for seed in range(repeats):
            say(f"{algo}, run {seed + 1} of {repeats}: JaxMARL, then matrpo")
            found = checkout.train(baseline, {**theirs, "SEED": seed})
            used["versions"] = found.pop("versions")
            if found["updates"] != WARM_UP + iterations:
                wrong = f"made {found['updates']} updates, expected {WARM_UP + iterations}"
                raise ConfigError(f"--jaxmarl {checkout.folder}: {baseline.module} {wrong}")
            of_theirs.append(found)
            of_ours.append(in_own_process({**ours, "seed": seed}, iterations))
        used[algo] = {"JaxMARL": theirs, "matrpo": ours}
        rows += _rows(algo, medians(of_theirs), medians(of_ours), samples, iterations)
        goals += _goals(algo, rows[-1])
    return Report("jaxmarl", used, {"Training beside JaxMARL's baselines": rows}, goals)


def our_settings(algo: str, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ours that are a baseline's: sizes of batches and networks, numbers of passes, and coefficients.

    Args:
        algo: the algorithm.
        theirs: the baseline's, as its file has them.
    """
    baseline = BASELINES[algo]
    samples, parts = theirs["NUM_ENVS"] * theirs["NUM_STEPS"], theirs["NUM_MINIBATCHES"]
    return {
        **{"algo": algo, "task": TASK, "agents": AGENTS, **baseline.networks},
        **{"share_parameters": True, "agent_id": False, "state_type": "ep"},
        **{"feature_normalization": False, "orthogonal_initialization": True},
        **{"num_envs": theirs["NUM_ENVS"], "rollout_length": theirs["NUM_STEPS"], "chunk_length": theirs["NUM_STEPS"]},
        **{"reward": "own", "reward_scaling": False, "huber_delta": None},
        **{"gamma": theirs["GAMMA"], "gae_lambda": theirs["GAE_LAMBDA"], "entropy_coef": theirs["ENT_COEF"]},
        **{"actor_lr": theirs["LR"], "critic_lr": theirs["LR"], "lr_decay": bool(theirs["ANNEAL_LR"])},
        **{"policy_epochs": theirs["UPDATE_EPOCHS"], "critic_epochs": theirs["UPDATE_EPOCHS"]},
        **{"policy_batch": AGENTS * samples // parts, "critic_batch": baseline.samples * samples // parts},
        **{"clip_range": theirs["CLIP_EPS"], "value_clip": theirs["CLIP_EPS"]},
        "clip_scaling": "per-agent" if theirs.get("SCALE_CLIP_EPS") else "none",
        "max_grad_norm": theirs["MAX_GRAD_NORM"],
    }


def _rows(
    algo: str, theirs: Mapping[str, float], ours: Mapping[str, float], samples: int, iterations: int
) -> list[Row]:
    """The lines of an algorithm: JaxMARL's, ours, and ours over JaxMARL's."""
    thousands = samples * (WARM_UP + iterations) / 1000
    speeds = 1000 * thousands / theirs["seconds"], samples * iterations / ours["seconds"]
    processor = theirs["processor"] / thousands, ours["rollout"] + ours["update"]
    memory = theirs["memory"], ours["memory"]
    sides = zip(("JaxMARL", "matrpo"), speeds, processor, memory, (theirs["compile"], "-"), (theirs, ours), strict=True)
    rows: list[Row] = [
        {
            **{"algorithm": algo, "side": side, "steps_per_s": speed, "CPU_s_per_1000_steps": cpu, "peak_MiB": peak},
            **{"compile_s": compiling, "return": figures["return"], "episode_steps": figures["episode_steps"]},
            "parameters": int(figures["parameters"]),
        }
        for side, speed, cpu, peak, compiling, figures in sides
    ]
    ratio: Row = {
        **{"algorithm": algo, "side": "ratio", "steps_per_s": speeds[1] / speeds[0]},
        **{"CPU_s_per_1000_steps": processor[1] / processor[0], "peak_MiB": memory[1] / memory[0]},
        **dict.fromkeys(("compile_s", "return", "episode_steps", "parameters"), "-"),
    }
    return [*rows, ratio]


def _goals(algo: str, ratio: Row) -> list[Goal]:
    processor, speed = float(ratio["CPU_s_per_1000_steps"]), float(ratio["steps_per_s"])
    return [
        Goal(f"{algo}: CPU seconds of a step, over JaxMARL's", processor, _TIMES_PROCESSOR, at_least=False),
        Goal(f"{algo}: seconds of a step, over JaxMARL's", 1 / speed, _TIMES_SECONDS, at_least=False),
    ]


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
