"""Defaults that depend on the communication graph."""

from __future__ import annotations

from typing import Any

import pytest

from matrpo.errors import ConfigError
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.settings.config import DecentralizedConfig, RunConfig, resolve


def resolved(agents: int, **given: Any) -> DecentralizedConfig:
    return resolve_graph_settings(RunConfig.of(resolve(("test", given)), agents))


@pytest.mark.parametrize(("agents", "activations", "penalty"), [(3, 99, 0.01), (6, 210, 0.02), (12, 456, 0.035)])
def test_defaults_grow_with_the_diameter_of_a_ring(agents: int, activations: int, penalty: float) -> None:
    config = resolved(agents)
    assert (config.agents, config.admm_iterations) == (agents, activations)
    assert config.beta == pytest.approx(penalty)


@pytest.mark.parametrize(("agents", "activations", "beta"), [(3, 10, 1.0), (6, 21, 1.072), (12, 90, 1.333)])
def test_averaging_takes_what_brings_a_ring_near_the_mean(agents: int, activations: int, beta: float) -> None:
    config = resolved(agents, consensus="averaging")
    assert (config.admm_iterations, config.schedule, config.beta) == (activations, "matchings", beta)
    assert resolve_graph_settings(config) == config


def test_random_links_average_more_slowly() -> None:
    config = resolved(12, consensus="averaging", schedule="poisson")
    assert config.schedule == "poisson"
    assert (config.beta, config.admm_iterations > 90) == (1.0, True)


def test_admm_keeps_the_papers_schedule() -> None:
    assert resolved(6).schedule == "seeded"
    assert resolved(6, schedule="matchings").schedule == "matchings"


def test_averaging_that_takes_agents_apart_is_refused() -> None:
    assert resolved(6, consensus="averaging", beta=1.99).beta == 1.99
    with pytest.raises(ConfigError, match=r"bad value 2.0 for 'beta' \(test\): expected below 2"):
        resolved(6, consensus="averaging", beta=2)


def test_averaging_that_would_take_for_ever_is_refused_and_what_to_do_said() -> None:
    with pytest.raises(ConfigError, match="takes 1000 activations of each link or more: set admm_iterations"):
        resolved(6, consensus="averaging", beta=1e-9)
    assert resolved(6, consensus="averaging", beta=1e-9, admm_iterations=7).admm_iterations == 7


def test_settings_win_over_the_defaults() -> None:
    config = resolved(6, topology="star", beta=0.5, admm_iterations=7)
    assert (config.beta, config.admm_iterations) == (0.5, 7)


def test_without_links_there_is_nothing_to_activate() -> None:
    assert resolved(3, topology="none").admm_iterations == 0


def test_all_other_settings_stay() -> None:
    config = resolved(3, seed=5, num_envs=7)
    assert config == resolve_graph_settings(config)
    assert (config.seed, config.num_envs, config.samples) == (5, 7, 700)


def test_roads_are_the_task_s_links() -> None:
    config = resolved(6, task="traffic/grid-2x3", topology="road")
    # Junctions are named by column and row: A0, A1, B0, B1, C0, C1.
    assert build_graph(config).links == ((0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5))
    assert config.admm_iterations == (32 + 3) * 7


def test_a_task_without_roads_is_told_so() -> None:
    with pytest.raises(ConfigError, match="bad value for 'topology': only a task can say who is on one road"):
        resolved(3, topology="road")
