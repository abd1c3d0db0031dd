"""I5: no message sequence, however hostile, raises, makes an agent store more, or keeps it from finishing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_network import SHAPE, Agent, Faults, Network, line, make_peers, ring

from matrpo.consensus.link_types import DROP_REASONS
from matrpo.consensus.message import LinkMessage

LAST_K = 8
AGENT = 1

near = st.integers(-1, LAST_K + 2)
anything = st.one_of(
    near, near, near, st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), st.just([])
)
payloads = st.sampled_from(
    [
        None,
        np.zeros(SHAPE, np.float32),
        np.full(SHAPE, 65504.0, np.float32),
        np.full(SHAPE, -65504.0, np.float32),
        np.full(SHAPE, np.nan, np.float32),
        np.full(SHAPE, 3e38, np.float32),
        np.zeros(SHAPE, np.float16),
        np.zeros((0, 5), np.float32),
        np.zeros((), np.float32),
        np.array([object()]),
        "zeros",
    ]
)
wild = st.builds(
    LinkMessage,
    kind=st.one_of(st.sampled_from(["ratios", "beat", "over", "busy"]), anything),
    sender=anything,
    incarnation=anything,
    iteration=anything,
    link=anything,
    k=anything,
    tip=anything,
    base=anything,
    answered=st.one_of(st.booleans(), anything),
    u=payloads,
)
plausible = st.builds(
    lambda kind, sender, u, **rest: LinkMessage(
        kind, sender, link=0 if sender == 0 else 1, u=u if kind == "ratios" else None, **rest
    ),
    kind=st.sampled_from(["ratios", "ratios", "ratios", "beat", "over", "busy"]),
    sender=st.sampled_from([0, 2]),
    incarnation=st.sampled_from([0, 0, 0, 1]),
    iteration=st.integers(0, 2),
    k=st.integers(1, LAST_K),
    tip=st.integers(0, 4),
    base=st.integers(0, 2),
    answered=st.booleans(),
    u=st.sampled_from([np.zeros(SHAPE, np.float32), np.full(SHAPE, 65504.0, np.float32)]),
)
events = st.lists(st.one_of(plausible, plausible, wild, st.sampled_from(["tick", "begin"])), max_size=60)


@pytest.mark.parametrize("schedule", ["seeded", "poisson"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(events=events)
def test_no_sequence_of_messages_raises_or_keeps_an_agent_from_finishing(schedule, events):
    peer = make_peers(line(3), LAST_K, schedule)[AGENT]
    now = 0.0
    iteration = 0
    peer.begin(iteration, Agent(AGENT, 0), SHAPE, now)
    for event in events:
        if event == "begin":
            iteration += 1
            peer.begin(iteration, Agent(AGENT, iteration), SHAPE, now)
        elif event == "tick":
            now = max(now, peer.next_event() or now)
            peer.tick(now)
        else:
            peer.receive(event, now)
        assert len(peer.take_outbox()) < 30
        for link in peer.links.values():
            assert np.isfinite(link.tip.y).all()
            assert np.isfinite(link.tip.ubar).all()
    start = now
    while not peer.done:
        now = max(now, peer.next_event())
        peer.tick(now)
        assert now <= start + 45.0, "an agent with two silent neighbours is done after a deadline or two for each"
    assert set(peer.counters.drops) == set(DROP_REASONS)


def stored_bytes(peer):
    peer.take_outbox()
    return max(len(pickle.dumps(link)) for link in peer.links.values())


@pytest.mark.parametrize("schedule", ["seeded", "poisson"])
def test_a_flood_makes_an_agent_store_at_most_a_handful_of_arrays(schedule):
    """Two states of two arrays, the own message and answer, and one of the neighbour's for later."""
    graph = ring(3)
    peer = make_peers(graph, 2000, schedule)[1]
    peer.begin(0, Agent(1, 0), SHAPE, 0.0)
    array = np.zeros(SHAPE, np.float32).nbytes
    empty = stored_bytes(peer) - 3 * array
    rng = np.random.default_rng(0)
    for _ in range(3000):
        k = int(rng.integers(1, 2000))
        u = rng.normal(size=SHAPE).astype(np.float32)
        peer.receive(LinkMessage("ratios", 0, 0, int(rng.integers(3)), 0, k, u=u), 0.0)
        assert stored_bytes(peer) < empty + 7 * array + 1500


def test_a_neighbour_whose_every_word_is_corrupt_is_left_alone():
    graph = line(2)
    peers = make_peers(graph, 10)
    network = Network(peers, graph, Faults(corruption=1.0), seed=0)
    network.run()
    assert all(peer.links[0].silent or peer.links[0].quarantined for peer in peers)
    assert all(peer.counters.commits == 0 for peer in peers)
    assert network.now < 20.0
