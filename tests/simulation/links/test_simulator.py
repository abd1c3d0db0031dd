"""The simulator finds nothing wrong with the protocol, and everything that is wrong with broken ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
from broken_protocols import BROKEN, BrokenPeer, Grudge, Hoarder, Lopsided, NoBase, Raises
from marks import slow
from planted_bugs import HARMLESS, PLANTED, with_bug

from matrpo.consensus.peer import Peer
from matrpo.simulation.links.history import Fault, generate, parse
from matrpo.simulation.links.simulator import simulate
from matrpo.simulation.shrink import shrink

MOST_SEEDS = 1000

CAUGHT_BY = {
    "no undo": "I2",
    "commit counts": "I2",
    "no incarnation": "I1",
    "apply twice": "I3",
    "ignore iteration": "I4",
    "no deadline": "I4",
}


FOUND_BY = {
    "common state: the smallest, not the largest": (1, "I2"),
    "restarted neighbour after a commit is not estranged": (49, "I1"),
    "restart of the neighbour keeps its old 'over'": (673, "I4"),
    "restart of the neighbour keeps its pending ratios": (344, "I1"),
    "restart of the neighbour keeps its old answer": (49, "I1"),
    "estrangement is never forgotten": (2, "I4"),
    "quarantine is never lifted": (5, "liveness"),
    "over for exactly this activation does not close it": (0, "prompt"),
    "deadline counts from the iteration's start": (0, "I4"),
    "own end commits unrounded ratios": (0, "I3"),
    "a refusal is not remembered": (509, "liveness"),
    "quarantine does not tell the neighbour": (446, "prompt"),
    "silence after any deadline, heard or not": (12, "I4"),
    "late answer names the own position": (4, "liveness"),
    "later ratios replace without asking for the open ones": (47, "prompt"),
    "early payload of the wrong shape is not checked at begin": (415, "I3"),
    "an old incarnation's message counts as a sign of life and is taken": (336, "I4"),
    "no answer is kept for a neighbour that still waits": (1, "liveness"),
    "who gives up at the deadline does not say so": (62, "prompt"),
}
"""The first seed whose history shows a planted bug, and what it violates."""


def first_violation(make_peer, invariant=None):
    """The first seed that shows something wrong, or that this invariant is violated."""
    for seed in range(MOST_SEEDS):
        violation = simulate(generate(seed), make_peer).violation
        if violation is not None and invariant in (None, violation.invariant):
            return seed, violation
    raise AssertionError(f"not caught within {MOST_SEEDS} seeds")


def trace_of(history, make_peer=Peer):
    trace = []
    simulate(history, make_peer, lambda now, text: trace.append((now, text)))
    return trace


@pytest.mark.parametrize("batch", [*range(2), *map(slow, range(2, 8))])
def test_no_history_violates_an_invariant(batch):
    for seed in range(60 * batch, 60 * (batch + 1)):
        history = generate(seed)
        outcome = simulate(history)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}: {history}"


def test_what_a_corrupt_message_ends_was_not_given_up_for_silence():
    """Agent 0 sleeps through its deadline, and the first thing that it then sees is a corrupt message."""
    history = parse(
        "agents=3 links=0-1,0-2 iterations=1 k=5 samples=1 consensus=admm schedule=seeded dtype=float32 absent=wait "
        "noise=230594530 "
        "clocks=99.9:1.16,41:0.78,42.3:1.2 duplicate:0>1@3.06..5.15*0.24 corrupt:all@4.19..4.29*0.66 "
        "drop:all@2.6..10.81*0.64 stop:0@5.29..7.6 corrupt:1>0@6.5..6.59*0.36"
    )
    assert simulate(history).violation is None


@pytest.mark.slow
def test_no_history_of_many_violates_an_invariant():
    for seed in range(10_000, 25_000):
        history = generate(seed)
        outcome = simulate(history)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}: {history}"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_caught_shrunk_and_replayed(name):
    make_peer = partial(BrokenPeer, BROKEN[name])
    seed, violation = first_violation(make_peer)
    print(f"{name}: seed {seed}, {violation}")
    assert violation.invariant == CAUGHT_BY[name]

    def fails(history):
        found = simulate(history, make_peer).violation
        return found is not None and found.invariant == violation.invariant

    history = generate(seed)
    shrunk = shrink(history, fails)
    assert shrunk != history
    assert shrunk.agents <= 4
    assert len(shrunk.faults) <= 4
    assert shrunk.iterations <= 2
    replayed = parse(str(shrunk))
    assert replayed == shrunk
    trace = trace_of(replayed, make_peer)
    assert trace[-1][1].startswith(violation.invariant)
    assert simulate(replayed).violation is None, "it is the protocol that is wrong, not the history"


@pytest.mark.parametrize(
    ("link_class", "invariant"),
    [(NoBase, "I2"), (Raises, "I5"), (Hoarder, "I5"), (Grudge, "I4")],
)
def test_every_check_can_fail(link_class, invariant):
    first_violation(partial(BrokenPeer, link_class), invariant)


def test_an_average_that_loses_its_sum_is_found():
    first_violation(Lopsided, "I6")


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name):
    seed, invariant = FOUND_BY[name]
    violation = simulate(generate(seed), partial(BrokenPeer, with_bug(name))).violation
    assert violation is not None
    assert violation.invariant == invariant
    assert simulate(generate(seed)).violation is None, "it is the protocol that is wrong, not the history"


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_first_by_its_seed(name):
    seed, violation = first_violation(partial(BrokenPeer, with_bug(name)))
    assert (seed, violation.invariant) == FOUND_BY[name]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_does_what_the_protocol_does(name):
    for seed in range(8):
        assert simulate(generate(seed), partial(BrokenPeer, with_bug(name))).violation is None


def test_a_history_happens_the_same_way_every_time():
    for seed in range(20):
        trace = trace_of(generate(seed))
        assert trace == trace_of(parse(str(generate(seed))))
        assert trace != trace_of(replace(generate(seed), noise=1))


def test_every_history_can_be_written_and_read():
    for seed in range(500):
        history = generate(seed)
        assert parse(str(history)) == history


def test_histories_have_faults_of_all_kinds():
    faults = [fault for seed in range(500) for fault in generate(seed).faults]
    kinds = Counter(fault.kind for fault in faults)
    assert set(kinds) == {"drop", "duplicate", "delay", "corrupt", "partition", "stop", "kill", "reset"}
    assert min(kinds.values()) > 50
    assert any(fault.kind == "drop" and fault.amount == 1.0 and fault.where for fault in faults), "a dead direction"
    assert any(fault.stop == float("inf") for fault in faults), "an agent that never returns"


def test_histories_bring_about_what_the_protocol_is_there_for():
    """Give-ups, skips, repeats, undone commits, refused messages of every kind."""
    peers = []

    def make_peer(*arguments, **settings):
        peers.append(Peer(*arguments, **settings))
        return peers[-1]

    undone = 0
    for seed in range(100):
        trace = trace_of(generate(seed), make_peer)
        states = [text.split(" from ")[1].split()[0].split("/") for _, text in trace if " from " in text]
        undone += sum(int(base) < int(tip) - 1 for tip, base in states)
    counters = [peer.counters for peer in peers]
    assert undone > 50
    for name in ("commits", "give_ups", "skips", "resends"):
        assert sum(getattr(c, name) for c in counters) > 100
    drops = sum((Counter(c.drops) for c in counters), Counter())
    assert {"address", "header", "incarnation", "payload", "late"} <= set(drops)


def test_a_run_without_faults_commits_every_activation():
    history = replace(generate(3), faults=(), iterations=3)
    peers = []

    def make_peer(*arguments, **settings):
        peers.append(Peer(*arguments, **settings))
        return peers[-1]

    assert simulate(history, make_peer).violation is None
    assert sum(peer.counters.commits for peer in peers) >= 2 * 3 * history.k
    assert not any(peer.counters.skips for peer in peers)


def test_a_fault_is_written_as_it_is_read():
    assert str(Fault("drop", 1.5, 4.0, (0, 2), 0.25)) == "drop:0>2@1.5..4*0.25"
    assert str(Fault("delay", 0.0, 4.0, (), 2.0)) == "delay:all@0..4*2"
    assert str(Fault("partition", 1.0, 2.0, (0, 2))) == "partition:0+2@1..2"
    assert str(Fault("kill", 1.0, float("inf"), (1,))) == "kill:1@1..inf"


GOOD = str(replace(generate(0), agents=3, links=((0, 1), (1, 2)), clocks=((0.0, 1.0),) * 3, faults=()))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("agents=3", "", "needs agents="),
        ("agents=3", "agents=three", "agents: expected an integer from 1 to 32, not 'three'"),
        ("agents=3", "agents=4", "clocks must name 4 clocks, not 3"),
        ("links=0-1,1-2", "links=0-3", "links: expected an integer from 0 to 2"),
        ("links=0-1,1-2", "links=1-0", "i < j"),
        ("links=0-1,1-2", "links=0-1,1-2 colour=red", "has no colour="),
        ("schedule=", "schedule=un", "schedule must be seeded or matchings or poisson"),
        ("clocks=0:1", "clocks=0:0", "clocks: expected a number from 0.1 to 10"),
        ("clocks=0:1", "clocks=0:nan", "clocks: expected a number"),
        ("agents=3", "agents=3 flood:0>1@0..1*1", "unknown fault"),
        ("agents=3", "agents=3 loss", "malformed fault|unknown fault|expected"),
        ("agents=3", "agents=3 drop:0@0..1*1", "malformed fault"),
        ("agents=3", "agents=3 drop:0>1@0..1", "malformed fault"),
        ("agents=3", "agents=3 drop:0>9@0..1*1", "integer from 0 to 2"),
        ("agents=3", "agents=3 drop:0>1@0..1*2", "number from 0 to 1"),
        ("agents=3", "agents=3 drop:0>1@2..1*1", "must stop after it starts"),
        ("agents=3", "agents=3 stop:0@0..inf", "must stop after it starts"),
        ("agents=3", "agents=3 partition:0+1+2@0..1", "malformed fault"),
    ],
)
def test_a_malformed_history_is_refused_with_a_reason(old, new, reason):
    assert old in GOOD
    parse(GOOD)
    with pytest.raises(ValueError, match=reason):
        parse(GOOD.replace(old, new, 1))
