"""Settings: layers, checks, and errors that say what to do."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from matrpo.errors import ConfigError
from matrpo.settings import presets
from matrpo.settings.config import (
    FIELDS,
    HEADINGS,
    SECTIONS,
    Config,
    load_file,
    parse_override,
    resolve,
    resolve_saved,
    to_dict,
)


def test_later_layers_win_and_yaml_round_trips(tmp_path):
    config = resolve(("a", {"beta": 2, "seed": 3}), ("b", {"beta": 0.5}))
    assert (config.beta, config.seed) == (0.5, 3)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert resolve(("file", load_file(path))) == config


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"btea": 1.0}, ["unknown setting 'btea'", "here", "did you mean 'beta'?"]),
        ({"beta": "high"}, ["'beta'", "a number", "here"]),
        ({"beta": 0}, ["'beta'", "above 0.0"]),
        ({"beta": float("inf")}, ["'beta'", "finite"]),
        ({"beta": float("nan")}, ["'beta'", "finite"]),
        ({"seed": -1}, ["'seed'", "at least 0"]),
        ({"seed": 1.5}, ["'seed'", "an integer"]),
        ({"seed": True}, ["'seed'", "an integer"]),
        ({"gamma": 1.5}, ["'gamma'", "at most 1.0"]),
        ({"tensorboard": "yes"}, ["'tensorboard'", "true or false"]),
        ({"solver": "recicled"}, ["'solver'", "recycled, cg", "did you mean 'recycled'?"]),
        ({"hidden_sizes": [64, 0]}, ["'hidden_sizes'", "at least 1"]),
        ({"hidden_sizes": ["a"]}, ["'hidden_sizes'", "a list of integers"]),
        ({3: 4}, ["unknown setting 3"]),
    ],
)
def test_bad_values_are_named_in_one_line(values, parts):
    with pytest.raises(ConfigError) as caught:
        resolve(("here", values))
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"rollout_length": 25}, ["10", "'chunk_length' (default)", "a divisor of rollout_length, 25"]),
        ({"chunk_length": 30}, ["30", "'chunk_length' (here)", "a divisor of rollout_length, 100"]),
        ({"chunk_length": 0}, ["'chunk_length'", "at least 1"]),
        ({"hidden_sizes": []}, ["'hidden_sizes' (here)", "at least one layer"]),
        ({"recurrent_layers": -1}, ["'recurrent_layers'", "at least 0"]),
    ],
)
def test_settings_of_recurrent_networks_fit_together(values, parts):
    with pytest.raises(ConfigError) as caught:
        resolve(("here", {"recurrent_layers": 1, **values}))
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_the_chunk_length_does_not_matter_without_recurrent_layers():
    assert resolve(("here", {"rollout_length": 25})).rollout_length == 25


def test_numbers_are_read_as_people_write_them():
    config = resolve(
        ("cli", {"critic_lr": "3e-4", "steps": 1e6, "beta": 2, "hidden_sizes": 64, "admm_iterations": None})
    )
    assert (config.critic_lr, config.steps, config.beta, config.hidden_sizes) == (3e-4, 1_000_000, 2.0, (64,))
    assert config.admm_iterations is None


def test_overrides_are_yaml():
    assert parse_override("beta=0.5") == ("beta", 0.5)
    assert parse_override("hidden_sizes=[8, 8]") == ("hidden_sizes", [8, 8])
    for text in ("beta", "beta=[1"):
        with pytest.raises(ConfigError, match="-o beta"):
            parse_override(text)


@pytest.mark.parametrize(
    ("content", "message"), [("- 1\n- 2", "a mapping"), ("a: [", "not valid YAML"), (b"\xff\xfe\x00", "not valid YAML")]
)
def test_files_that_are_no_mapping_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        load_file(path)


def test_an_empty_file_changes_nothing_and_a_missing_one_is_an_error(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert load_file(empty) == {}
    with pytest.raises(ConfigError, match="No such file"):
        load_file(Path(tmp_path / "missing.yaml"))


def test_every_setting_has_a_default_that_passes_its_own_check_and_a_help_text():
    assert resolve(("defaults", to_dict(Config()))) == Config()
    assert all(field.metadata["help"] for field in FIELDS.values())


@pytest.mark.parametrize(("agents", "activations"), [(2, 100), (3, 100), (4, 150), (6, 150), (12, 150)])
def test_the_paper_preset_is_table_iii(agents, activations):
    config = resolve(("preset", presets.load("paper", "navigation", agents)), ("test", {"agents": agents}))
    assert (config.samples, config.kl_step, config.gamma, config.gae_lambda, config.beta) == (
        10_000,
        0.003,
        0.995,
        0.95,
        1.0,
    )
    assert (config.admm_iterations, config.step_rule) == (activations, "paper")
    beyond = config.kl_decay, config.step_damping, config.model_epochs, config.observe_changes
    assert beyond == (False, None, 0, None)


def test_a_saved_run_has_no_settings_that_were_tuned_after_it():
    saved = {"task": "navigation", "agents": 12, "beta": 0.5}
    assert resolve(("test", saved)).kl_decay
    assert resolve_saved("test", saved) == Config(**saved)
    averaging = {"task": "navigation", "consensus": "averaging", "schedule": "matchings"}
    assert resolve_saved("test", averaging) == Config(**averaging)
    with pytest.raises(ConfigError, match=r"unknown setting 'kl_stop' \(config.yaml\)"):
        resolve_saved("config.yaml", {"kl_stop": 1.0})


def test_unknown_presets_and_tasks_are_named():
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        presets.load("papr", "navigation", 3)
    with pytest.raises(ConfigError, match="no settings for task 'chess'"):
        presets.load("paper", "chess", 3)


def test_each_setting_stands_in_one_section():
    assert (HEADINGS["algo"], HEADINGS["steps"], HEADINGS["num_envs"]) == ("What to run", "What to run", "Sampling")
    assert (HEADINGS["accept_ratio"], HEADINGS["state_type"]) == ("Trust region", "Policy gradient")
    assert list(HEADINGS) == list(FIELDS) == list(to_dict(Config()))
    assert len(FIELDS) == sum(len(dataclasses.fields(section)) for section in SECTIONS)
    assert set(FIELDS) == {field.name for field in dataclasses.fields(Config)}


def test_what_is_of_the_machines_may_change_when_a_run_is_resumed():
    assert {name for name, field in FIELDS.items() if field.metadata["resumable"]} == {
        *("steps", "env_workers", "device", "torch_threads"),
        *("checkpoint_every", "checkpoints_kept", "tensorboard", "tracker"),
        *("link_deadline", "link_resend", "on_agent_loss", "agent_deadline", "transport", "port", "insecure"),
    }


def test_a_config_file_may_hold_settings_of_other_algorithms():
    assert resolve(("mine.yaml", {"algo": "happo", "beta": 1.0})).beta == 1.0
