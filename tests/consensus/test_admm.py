from __future__ import annotations

import numpy as np
import pytest
from simulated_network import complete, line, ring

from matrpo.consensus import admm

SHAPE = (3, 7)


@pytest.mark.parametrize("graph", [line(2), ring(5), complete(4)], ids=lambda g: g.name)
@pytest.mark.parametrize("beta", [0.3, 1.0, 7.0])
def test_equals_the_updates_as_printed(graph, beta):
    """(22) to the letter, with z_e^q, y_e^q and nu_e kept at both ends, over random activations of random u."""
    rng = np.random.default_rng(0)
    ends = [(e, q) for e, link in enumerate(graph.links) for q in link]
    C = {(e, q): graph.sign(e, q) for e, q in ends}
    z = {end: np.zeros(SHAPE) for end in ends}
    y = {end: np.zeros(SHAPE) for end in ends}
    state = {end: admm.initial_state(SHAPE, np.float64) for end in ends}
    for k in range(1, 60):
        e = int(rng.integers(len(graph.links)))
        i, j = graph.links[e]
        u = {q: rng.normal(size=SHAPE) for q in (i, j)}
        nu = sum(y[e, q] + beta * C[e, q] * u[q] for q in (i, j)) / 2
        for q, other in ((i, j), (j, i)):
            z[e, q] = (y[e, q] - nu) / beta + C[e, q] * u[q]
            y[e, q] = nu
            state[e, q] = admm.commit(state[e, q], k, u[q], u[other], C[e, q], beta)
        for agent in range(graph.num_agents):
            own = [(e, agent) for e in graph.links_of(agent)]
            bracket = sum(-C[end] * y[end] + beta * C[end] * z[end] for end in own)
            pulled = admm.consensus_term([state[end] for end in own], [C[end] for end in own], beta)
            np.testing.assert_allclose(pulled, bracket, rtol=1e-12, atol=1e-12)
        for end in ends:
            np.testing.assert_allclose(state[end].y, y[end], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(state[end].ubar, C[end] * z[end], rtol=1e-12, atol=1e-12)


def test_both_ends_get_the_same_bits():
    rng = np.random.default_rng(1)
    ends = [admm.initial_state(SHAPE), admm.initial_state(SHAPE)]
    for k in range(1, 200):
        u = [rng.normal(size=SHAPE, scale=10.0 ** rng.integers(-30, 5)).astype(np.float32) for _ in ends]
        u[1][0] = u[0][0]
        ends = [
            admm.commit(ends[0], k, u[0], u[1], +1, 0.37),
            admm.commit(ends[1], k, u[1], u[0], -1, 0.37),
        ]
        assert ends[0].y.tobytes() == ends[1].y.tobytes()
        assert ends[0].ubar.tobytes() == ends[1].ubar.tobytes()
        assert ends[0].y.dtype == ends[0].ubar.dtype == np.float32


def test_pull_is_zero_before_the_first_activation():
    pull = admm.consensus_term([admm.initial_state(SHAPE)] * 2, [1, -1], 2.0)
    assert pull.dtype == np.float32
    assert pull.shape == SHAPE
    assert not pull.any()
