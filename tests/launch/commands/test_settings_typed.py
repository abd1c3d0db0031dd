"""Settings that a user types: refused exactly if the algorithm does not read them."""

from __future__ import annotations

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.commands.options import resolve_layers, settings_read
from matrpo.settings.algorithm_names import ALGORITHMS
from matrpo.settings.config import FIELDS, Config, to_dict

OWN = "/my/file.py:Mine"


@pytest.mark.parametrize("algo", [*ALGORITHMS, OWN])
def test_a_setting_is_refused_exactly_if_the_algorithm_does_not_read_it(algo: str) -> None:
    refused = {}
    for key, value in to_dict(Config()).items():
        try:
            resolve_layers([("command line", {key: value}), ("a file", {"algo": algo})])
        except ConfigError as error:
            refused[key] = str(error)
    assert refused == {
        key: f"{algo} does not use the setting {key!r} (command line): leave it out"
        for key in FIELDS
        if key not in settings_read(algo)
    }


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_algorithm_reads_settings_that_there_are_and_a_topology_if_it_has_a_graph(algo: str) -> None:
    read = settings_read(algo)
    assert read <= set(FIELDS)
    assert ("topology" in read) == ALGORITHMS[algo].graph


@pytest.mark.parametrize(
    ("algo", "read", "refused"),
    [
        ("matrpo", "topology kl_step step_rule beta port", "actor_lr state_type accept_ratio share_parameters"),
        ("happo", "clip_range agent_order share_parameters chunk_length", "topology kl_step beta insecure step_rule"),
        ("hatrpo", "kl_step accept_ratio state_type lr_decay", "clip_range entropy_coef beta actor_lr policy_epochs"),
        ("haa2c", "policy_epochs", "clip_range clip_scaling damping"),
        ("mappo", "clip_scaling state_type", "agent_order buffer_size"),
        ("ippo", "clip_range share_parameters", "state_type agent_order"),
        ("ctrpo", "kl_step", "step_rule agent_order share_parameters"),
        ("fdmarl", "topology actor_lr", "beta state_type env_servers"),
        (
            "dnamarl",
            "topology actor_lr beta admm_iterations schedule wire_dtype env_servers port",
            "consensus consensus_samples kl_step model_epochs state_type share_parameters lr_decay",
        ),
        (
            "haddpg",
            "exploration_noise agent_order actor_lr polyak",
            "epsilon epsilon_steps mixer_size dueling_sizes value_clip initial_log_std policy_delay policy_noise",
        ),
        ("hatd3", "policy_delay policy_noise noise_clip agent_order", "epsilon gae_lambda critic_batch"),
        (
            "hasac",
            "temperature temperature_lr target_entropy agent_order actor_lr",
            "policy_delay policy_noise exploration_noise entropy_coef initial_log_std epsilon share_parameters",
        ),
        ("matd3", "policy_delay exploration_noise", "temperature agent_order chunk_length"),
        (
            "qmix",
            "mixer_size epsilon share_parameters",
            "policy_delay exploration_noise gae_lambda critic_epochs chunk_length actor_lr dueling_sizes",
        ),
        ("had3qn", "dueling_sizes agent_order actor_lr", "mixer_size exploration_noise noise_clip"),
        (OWN, "kl_step clip_range gamma buffer_size", "topology beta transport"),
    ],
)
def test_what_some_algorithms_read(algo: str, read: str, refused: str) -> None:
    assert set(read.split()) <= settings_read(algo)
    assert not set(refused.split()) & settings_read(algo)
