"""Every algorithm learns on another device than the processor, which is pretended: nothing is left behind on a move."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pretended_device import NAME, PretendedTensor, pretended_device
from scripted_task import ScriptedTask, Stay
from torch import nn

from matrpo.algorithms.shared.off_policy import OffPolicy
from matrpo.algorithms.shared.on_policy import OnPolicy
from matrpo.evaluation import evaluate
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.algorithm_names import ALGORITHMS
from matrpo.settings.config import resolve
from matrpo.training import CentralTraining, InProcessTraining, make_training

TINY = {
    **{"agents": 3, "num_envs": 2, "rollout_length": 30, "chunk_length": 5, "steps": 120, "hidden_sizes": [4]},
    **{"warmup_steps": 40, "updates_per_step": 0.1, "batch_size": 8, "admm_iterations": 9, "critic_epochs": 1},
    **{"critic_batch": 40, "policy_batch": 40, "policy_epochs": 1, "tensorboard": False, "checkpoint_every": 1},
}
DISCRETE = {"task": "mpe2/simple_spread_v3"}
CONTINUOUS = {"task": "mpe2/simple_spread_v3-continuous"}
"""Their episodes end within a rollout."""

RECURRENT = {"recurrent_layers": 1}
OTHER_LOSSES = {"value_clip": 0.2, "huber_delta": 1.0, "max_grad_norm": 0.5}

MASKED = {"task": f"{__file__}:comings_and_goings", "rollout_length": 10}
"""Its agents may not do everything, and are not always there."""

RUNS = {
    "matrpo": DISCRETE,
    "matrpo with GRU": {**CONTINUOUS, **RECURRENT},
    "matrpo by averaging": {**DISCRETE, "consensus": "averaging", "consensus_samples": 10},
    "matrpo by plain CG": {**CONTINUOUS, "solver": "cg"},
    "matrpo on a share": {**DISCRETE, "fisher_samples": 20, "model_epochs": 2, "consensus_samples": 10},
    "matrpo with GRU on a share": {**DISCRETE, **RECURRENT, "fisher_samples": 30, "model_epochs": 1},
    "matrpo with other losses": {**DISCRETE, **OTHER_LOSSES},
    "mappo shared": {"algo": "mappo", **DISCRETE, **OTHER_LOSSES, "share_parameters": True},
    "mappo with GRU": {"algo": "mappo", **CONTINUOUS, **RECURRENT, **OTHER_LOSSES},
    "hatrpo by plain CG": {"algo": "hatrpo", **CONTINUOUS, "solver": "cg", "fisher_samples": 20},
    "happo with GRU": {"algo": "happo", **DISCRETE, **RECURRENT},
    "jrppo with GRU": {"algo": "jrppo", **DISCRETE, **RECURRENT},
    "ctrpo with GRU": {"algo": "ctrpo", **DISCRETE, **RECURRENT},
    "haddpg of choices": {"algo": "haddpg", **DISCRETE, **{"max_grad_norm": 0.5, "huber_delta": 1.0}},
    "matrpo with masks": MASKED,
    "mappo with masks": {"algo": "mappo", **MASKED},
    "hatrpo with masks": {"algo": "hatrpo", **MASKED},
    "ctrpo with masks": {"algo": "ctrpo", **MASKED},
    "had3qn with masks": {"algo": "had3qn", **MASKED, "warmup_steps": 10},
    "hasac with masks": {"algo": "hasac", **MASKED, "warmup_steps": 10},
    "qmix shared": {"algo": "qmix", **DISCRETE, "share_parameters": True, "n_step": 2},
    **{algo: {"algo": algo, **(DISCRETE if algo in ("had3qn", "qmix") else CONTINUOUS)} for algo in ALGORITHMS},
}


def comings_and_goings(num_agents: int, num_envs: int, seed: int) -> Callable[[], ScriptedTask]:
    """The factory of a task in which one agent is there from the start to the end, and two are only at times."""
    del num_agents, num_envs, seed
    stays = [[Stay(0, 5, False)], [Stay(1, 3, True)], [Stay(0, 2, False), Stay(3, 5, True)]]
    return lambda: ScriptedTask(stays)


def create(path, settings: Mapping[str, Any]) -> RunDirectory:
    return RunDirectory.create(path, resolve(("test", {**TINY, **settings})), {})


def moved(run: RunDirectory) -> RunDirectory:
    """The same run, to learn on the pretended device."""
    again = copy.copy(run)
    again.config = dataclasses.replace(run.config, device=NAME)
    return again


def train(run: RunDirectory, start: int = 0, last: int = 2) -> CentralTraining | InProcessTraining:
    training = make_training(run, start)
    while training.iteration < last:
        training.iterate()
    return training


def states(run: RunDirectory, iteration: int = 2) -> dict[str, np.ndarray]:
    """All that the checkpoints of an iteration hold."""
    return {
        f"{name} {key}": array
        for name, process in run.processes().items()
        for key, array in process.load_checkpoint(iteration)[0].items()
    }


def assert_same(one: RunDirectory, other: RunDirectory) -> None:
    first, second = states(one), states(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def learned(training: CentralTraining | InProcessTraining) -> Iterator[tuple[nn.Module, torch.optim.Optimizer | None]]:
    """All networks that learn, and their optimisers."""
    if isinstance(training, InProcessTraining):
        for agent in training.agents:
            learner = getattr(agent, "_learner", None)
            yield agent.policy, learner and learner.optimizer
            yield agent.critic, agent.critic.optimizer
    elif isinstance(training.algorithm, OnPolicy):
        yield from ((learner.policy, learner.optimizer) for learner in training.algorithm.learners)
        yield from ((critic, critic.optimizer) for critic in training.algorithm.critics)
    else:
        assert isinstance(training.algorithm, OffPolicy)
        yield from ((network, None) for network in training.algorithm.actors)
        yield from ((network, None) for network in training.algorithm.critics.values())
        yield from ((nn.Module(), optimizer) for optimizer in training.algorithm.optimizers.values())


@pytest.mark.parametrize("name", RUNS)
def test_what_is_learned_on_another_device_is_the_same(name, tmp_path):
    here = create(tmp_path / "here", RUNS[name])
    train(here)
    there = create(tmp_path / "there", RUNS[name])
    with pretended_device() as operations:
        training = train(moved(there))
        for network, optimizer in learned(training):
            assert all(type(value) is PretendedTensor for value in network.state_dict().values())
            kept = optimizer.state.values() if optimizer else ()
            assert all(type(value) is PretendedTensor for state in kept for value in state.values())
    assert operations.count > 100
    assert_same(here, there)


@pytest.mark.parametrize("name", ["matrpo with GRU", "mappo with GRU", "haddpg"])
def test_a_run_continues_on_another_device_and_is_evaluated_on_the_processor(name, tmp_path):
    whole = create(tmp_path / "whole", RUNS[name])
    train(whole)
    for first, second in ((False, True), (True, False)):
        run = create(tmp_path / f"moved {first}", RUNS[name])
        for start, there in enumerate((first, second)):
            with pretended_device():
                train(moved(run) if there else run, start, start + 1)
        assert_same(whole, run)
    assert evaluate(moved(run), episodes=2) == evaluate(whole, episodes=2)
