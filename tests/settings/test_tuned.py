"""Tuned settings: every file holds what HARL's tables say, and fits every task that it is for."""

from pathlib import Path

import pytest
import yaml

from matrpo.envs.mujoco.mamujoco import FAMILY as MAMUJOCO
from matrpo.envs.registry import task_spec
from matrpo.envs.starcraft.smac import FAMILY as SMAC
from matrpo.envs.starcraft.smax import FAMILY as SMAX
from matrpo.errors import ConfigError
from matrpo.settings import tuned
from matrpo.settings.config import Config, resolve

FILES = sorted(tuned.FOLDER.glob("*/*.yaml"))
SPREAD = "mpe2/simple_spread_v3"


def tuned_for(algo: str, task: str) -> Config:
    return resolve(("test", {"algo": algo, "task": task}))


def content(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_is_valid_for_each_task_that_it_names(file: Path) -> None:
    """And each of them is a task that there is."""
    assert set(content(file)) <= {"all", "tasks", "admm", "averaging", "few"}
    alone = {"mpe2": SPREAD}.get(file.stem, file.stem)
    for name, changes in content(file).get("tasks", {"": {}}).items():
        task = f"{file.stem}/{name}" if name else alone
        large = {"agents": content(file)["few"]["agents"] + 1} if "few" in content(file) else {}
        config = resolve(("test", {"algo": file.parent.name, "task": task, **large}))
        task_spec(task, None)
        for key, value in {**content(file)["all"], **changes, **content(file).get("admm", {})}.items():
            found = getattr(config, key)
            assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize("family", [MAMUJOCO, SMAC, SMAX])
@pytest.mark.parametrize("algo", ["happo", "hatrpo", "haa2c", "mappo"])
def test_every_task_of_a_family_has_settings(algo: str, family) -> None:
    for task in family.tasks:
        config = tuned_for(algo, task.name)
        assert config.samples in (3200, 4000)
        assert config.max_grad_norm == 10.0


@pytest.mark.parametrize("algo", ["happo", "hatrpo", "mappo"])
@pytest.mark.parametrize("family", [SMAC, SMAX])
def test_minibatches_are_whole_parts_of_the_samples(algo: str, family) -> None:
    """A critic of agents' states has N times as many."""
    for task in family.tasks:
        config = tuned_for(algo, task.name)
        views = task_spec(task.name, None).num_agents if config.state_type == "fp" else 1
        parts = views * config.samples / config.critic_batch
        assert parts in (1, 2)
        if algo != "hatrpo":
            assert config.samples / config.policy_batch == parts


@pytest.mark.parametrize(
    ("algo", "task", "expected"),
    [
        # Table 6
        ("happo", SPREAD, {"samples": 4000, "gamma": 0.99, "clip_range": 0.2, "policy_epochs": 5, "actor_lr": 5e-4}),
        ("hatrpo", SPREAD, {"kl_step": 0.005, "backtrack_factor": 0.8, "critic_lr": 5e-4, "hidden_sizes": (128, 128)}),
        # Tables 9 and 10
        ("happo", "mamujoco/Ant-4x2", {"policy_epochs": 5, "clip_range": 0.1, "entropy_coef": 0.0}),
        ("mappo", "mamujoco/HalfCheetah-2x3", {"policy_epochs": 15, "critic_epochs": 15, "entropy_coef": 0.01}),
        ("happo", "mamujoco/Hopper-3x1", {"lr_decay": True, "policy_epochs": 10, "clip_range": 0.05}),
        ("mappo", "mamujoco/Walker2d-2x3", {"actor_lr": 1e-3, "critic_lr": 1e-3, "policy_batch": 2000}),
        ("happo", "mamujoco/Walker2d-6x1", {"lr_decay": False, "clip_range": 0.1, "entropy_coef": 0.01}),
        ("happo", "mamujoco/Humanoid-17x1", {"lr_decay": True, "hidden_sizes": (128, 128, 128)}),
        # Tables 11 and 12
        ("hatrpo", "mamujoco/Hopper-3x1", {"kl_step": 1e-3, "value_clip": 0.2, "backtrack_factor": 0.8}),
        ("hatrpo", "mamujoco/Walker2d-2x3", {"kl_step": 1e-2, "lr_decay": False, "critic_epochs": 5}),
        ("haa2c", "mamujoco/Ant-4x2", {"lr_decay": True, "actor_lr": 5e-4, "policy_epochs": 5, "value_clip": 0.1}),
        ("haa2c", "mamujoco/Hopper-3x1", {"actor_lr": 1e-4, "critic_lr": 1e-4, "policy_epochs": 3}),
        # Tables 17 and 18
        ("happo", "smac/3s5z", {"samples": 3200, "recurrent_layers": 1, "gamma": 0.99, "state_type": "ep"}),
        ("happo", "smac/MMM2", {"recurrent_layers": 0, "gamma": 0.95, "clip_range": 0.2, "hidden_sizes": (64,) * 3}),
        ("happo", "smac/6h_vs_8z", {"policy_epochs": 10, "policy_batch": 1600, "clip_range": 0.05, "state_type": "fp"}),
        ("happo", "smax/5m_vs_6m", {"recurrent_layers": 1, "gamma": 0.95, "state_type": "fp", "value_clip": 0.05}),
        # Tables 19 and 20
        ("hatrpo", "smac/27m_vs_30m", {"recurrent_layers": 1, "kl_step": 1e-3, "backtrack_factor": 0.8}),
        ("hatrpo", "smac/MMM2", {"recurrent_layers": 0, "kl_step": 6e-2, "gamma": 0.95, "state_type": "ep"}),
        ("hatrpo", "smax/6h_vs_8z", {"critic_lr": 1e-3, "gamma": 0.99, "backtrack_factor": 0.8}),
        # Tables 21 and 22
        ("happo", "smax/smacv2_10_units", {"hidden_sizes": (64,), "clip_range": 0.05, "gamma": 0.99}),
        ("hatrpo", "smax/smacv2_5_units", {"recurrent_layers": 1, "kl_step": 5e-3, "backtrack_factor": 0.5}),
        # HASAC has no tables there: its configuration files
        ("hasac", SPREAD, {"n_step": 20, "critic_lr": 5e-4, "temperature": None, "target_entropy": 0.0}),
        ("hasac", "mamujoco/HalfCheetah-2x3", {"n_step": 10, "actor_lr": 1e-3, "critic_lr": 1e-3, "temperature": None}),
        ("hasac", "mamujoco/Ant-8x1", {"n_step": 5, "critic_lr": 3e-4, "temperature": 0.2, "batch_size": 2200}),
        ("hasac", "mamujoco/Walker2d-2x3", {"n_step": 20, "actor_lr": 5e-4, "temperature": 0.2, "batch_size": 1000}),
        ("hasac", "smac/3s5z", {"n_step": 20, "actor_lr": 3e-4, "temperature": None, "target_entropy": 0.0}),
        ("hasac", "smac/corridor", {"n_step": 5, "actor_lr": 5e-4, "temperature": 0.002}),
        ("hasac", "smax/10m_vs_11m", {"n_step": 20, "gamma": 0.95, "actor_lr": 3e-4, "batch_size": 1000}),
    ],
)
def test_settings_are_those_of_harl_s_tables(algo: str, task: str, expected: dict) -> None:
    config = tuned_for(algo, task)
    assert {key: getattr(config, key) for key in expected} == expected


def test_continuous_actions_change_nothing() -> None:
    one, other = tuned_for("happo", SPREAD), tuned_for("happo", f"{SPREAD}-continuous")
    assert one.hidden_sizes == other.hidden_sizes == (128, 128)
    assert tuned.load("happo", SPREAD) == tuned.load("happo", f"{SPREAD}-continuous")


def test_what_is_given_wins_over_what_is_tuned() -> None:
    config = resolve(("test", {"algo": "hatrpo", "task": "smac/MMM2", "kl_step": 0.5}))
    assert (config.kl_step, config.gamma) == (0.5, 0.95)


def test_on_other_tasks_matrpo_and_a_user_s_algorithm_have_the_defaults() -> None:
    assert tuned_for("matrpo", SPREAD) == Config(task=SPREAD)
    assert tuned_for("/a/file.py:Mine", SPREAD) == Config(task=SPREAD, algo="/a/file.py:Mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("all: {clip_rnge: 0.1}", ["unknown setting 'clip_rnge' (tuned for happo)", "did you mean 'clip_range'?"]),
        ("all: {gamma: 2}", ["'gamma' (tuned for happo)", "at most 1.0"]),
        ("all: {}\ntasks: {hard: {gama: 1}}", ["unknown setting 'gama' (tuned for happo)"]),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, words: list[str], tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "happo").mkdir()
    (tmp_path / "happo" / "mpe2.yaml").write_text(text)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    with pytest.raises(ConfigError) as caught:
        tuned_for("happo", "mpe2/hard")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("file", [file for file in FILES if "few" in content(file)], ids=lambda file: file.stem)
def test_a_team_of_no_given_size_has_the_settings_of_the_task_s_own(file: Path) -> None:
    number = task_spec(file.stem, None).num_agents
    for consensus in ("admm", "averaging"):
        given = file.parent.name, file.stem, consensus
        assert tuned.load(*given) == tuned.load(*given, number)


def test_a_family_without_a_file_gets_what_is_tuned_for_mpe2() -> None:
    assert tuned.load("haa2c", "smac/3s5z") == tuned.load("haa2c", SPREAD)
    assert tuned.families("haa2c") == ["mamujoco", "mpe2"]
    assert tuned.families("happo") == ["mamujoco", "mpe2", "smac", "smax"]
    assert tuned.families("matrpo") == ["navigation", "smax", "treasure", "vmas"]


def test_matrpo_is_tuned_for_the_papers_tasks_each_kind_of_consensus_and_the_size_of_the_team() -> None:
    large, small = (0.1, True, 1.0, 1, 10.0), (0.03, True, None, 0, None)
    expected = {("admm", 3): small, ("admm", 4): small, ("admm", 5): large, ("admm", None): large}
    expected |= {("averaging", agents): large for agents in (3, 4, 5, None)}
    for (consensus, agents), values in expected.items():
        config = resolve(("test", {"task": "navigation", "consensus": consensus, "agents": agents}))
        assert (config.num_envs, config.critic_epochs) == (40, 3 if consensus == "admm" else 6)
        tuned_values = config.kl_step, config.kl_decay, config.step_damping, config.model_epochs, config.observe_changes
        assert tuned_values == values
    treasure = {agents: resolve(("test", {"task": "treasure", "agents": agents})) for agents in (None, 8, 9)}
    for agents, tuned_values in {None: (0.05, False, None), 8: (0.05, False, None), 9: (0.2, True, 1.0)}.items():
        config = treasure[agents]
        assert (config.kl_step, config.kl_decay, config.step_damping) == tuned_values
    admm = treasure[9]
    averaging = resolve(("test", {"task": "treasure", "consensus": "averaging"}))
    assert (admm.beta, admm.admm_iterations, admm.model_epochs) == (0.1, 96, 3)
    assert (averaging.beta, averaging.admm_iterations, averaging.model_epochs) == (None, None, 3)
    for battle, kl_step in {"2s3z": 0.05, "3s5z": 0.2}.items():
        config = resolve(("test", {"task": f"smax/{battle}"}))
        assert (config.samples, config.kl_step, config.beta, config.admm_iterations) == (4000, kl_step, 0.1, 96)
