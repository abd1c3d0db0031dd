"""Defaults that depend on the communication graph."""

from __future__ import annotations

import pytest

from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.settings.graph_settings import agent_penalty, build_graph, link_activations, link_penalty


@pytest.mark.parametrize(("agents", "activations", "penalty"), [(3, 99, 0.01), (6, 210, 0.02), (12, 456, 0.035)])
def test_defaults_grow_with_the_diameter_of_a_ring(agents, activations, penalty):
    config = resolve(("test", {"agents": agents}))
    graph = build_graph(config)
    assert link_activations(graph, config) == activations
    assert link_penalty(graph, config) == pytest.approx(penalty)
    assert agent_penalty(0, graph, config) == pytest.approx(2 * penalty)


def test_settings_win_over_the_defaults():
    config = resolve(("test", {"agents": 6, "topology": "star", "beta": 0.5, "admm_iterations": 7}))
    graph = build_graph(config)
    assert link_activations(graph, config) == 7
    assert link_penalty(graph, config) == 0.5
    assert agent_penalty(0, graph, config) == 2.5
    assert agent_penalty(1, graph, config) == 0.5


def test_without_links_there_is_no_penalty():
    config = resolve(("test", {"agents": 3, "topology": "none"}))
    graph = build_graph(config)
    assert link_activations(graph, config) == 0
    assert agent_penalty(0, graph, config) == 0.0


def test_a_run_keeps_them_as_numbers(tmp_path):
    run = RunDirectory.create(tmp_path / "run", resolve(("test", {"agents": 6})), {})
    assert (run.config.beta, run.config.admm_iterations) == (pytest.approx(0.02), 210)
    assert RunDirectory.open(run.path).config == run.config
