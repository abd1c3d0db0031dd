"""The simulator finds nothing wrong with the lock step, and everything that is wrong with broken ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from planted_lock_step_bugs import BROKEN, broken_machines

from matrpo.simulation.lock_step.history import LockStepHistory, ProcessFault, generate, parse
from matrpo.simulation.lock_step.simulator import simulate_lock_step
from matrpo.simulation.shrink import shrink

MOST_SEEDS = 1000

FOUND_BY = {
    "believes the largest claim of an iteration": (94, "L3"),
    "believes the largest claim of an attempt": (6, "L3"),
    "takes a restarted agent for the one before": (16, "L6"),
    "acts in any attempt": (9, "L6"),
    "does not see a later attempt": (5, "L6"),
    "begins what somebody may have learnt from": (378, "L1"),
    "does not count its starts": (21, "L6"),
    "waits for ever for those who do not come back": (86, "L6"),
    "asks once": (8, "L6"),
    "does not know that its folder was lost": (16, "L6"),
    "takes an action of any attempt": (6, "L1"),
    "takes an action of any step": (11, "L1"),
    "breaks off as soon as one has left": (8, "L3"),
    "waits for those who are silent": (4, "L4"),
    "names the last incarnation that there is": (122, "L5"),
    "forgets nobody": (22, "L4"),
    "wants again what it has learnt from": (5, "L2"),
    "keeps the actions of the last step": (0, "L1"),
}
"""The first seed whose history shows what is wrong, and what it violates."""


def trace_of(history: LockStepHistory, *machines: Any) -> list[tuple[float, str]]:
    trace: list[tuple[float, str]] = []
    simulate_lock_step(history, *machines, trace=lambda now, text: trace.append((now, text)))
    return trace


@pytest.mark.parametrize("batch", range(2))
def test_no_history_violates_an_invariant(batch: int) -> None:
    for seed in range(60 * batch, 60 * (batch + 1)):
        history = generate(seed)
        outcome = simulate_lock_step(history)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}: {history}"


@pytest.mark.slow
def test_no_history_of_many_violates_an_invariant() -> None:
    for seed in range(10_000, 25_000):
        history = generate(seed)
        outcome = simulate_lock_step(history)
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}: {history}"


ENDED = [
    # A server is cut off from all when it has just made its last step.
    "lock-step agents=2 servers=2 steps=2 iterations=2 every=2 noise=841234693 patience=1 silence=5 "
    "update=0.1 rule=noop cut:s0@0.76..0.95",
    # An agent comes back as the very incarnation that has acted under its id, and lied.
    "lock-step agents=3 servers=2 steps=1 iterations=2 every=3 noise=2848809493 patience=1 silence=5 "
    "update=0.1 rule=wait liar:a2@0..1.84",
    # The same, when the liar's action was about to be made a step with.
    "lock-step agents=4 servers=1 steps=3 iterations=3 every=1 noise=383826304 patience=1 silence=5 "
    "update=0.44 rule=wait liar:a3@0..2.23",
    # An agent that lost its folder hears of a server's second start, when the other agent has finished.
    "lock-step agents=2 servers=2 steps=2 iterations=2 every=1 noise=3708769981 patience=1 silence=5 "
    "update=0.1 rule=wait full:a1>s0@2.62..12.56*1 kill:s0@2.33..2.38*0 lost:a0@1.02..2.8*0",
    # A server that has answered an agent's action is started again and loses its hello; the agent waits for another.
    "lock-step agents=3 servers=2 steps=1 iterations=5 every=2 noise=228913177 patience=1 silence=5 update=0.11 "
    "rule=wait silence:s1@0.42..0.46 kill:a1@1.37..3*1 kill:s0@1.49..5.58*0 drop:all@5.58..5.67*0.41",
    # One agent has gone on to the end at a server where the two others, which have heard of another start, are not.
    "lock-step agents=3 servers=2 steps=1 iterations=3 every=2 noise=3117935090 patience=1 silence=5 update=0.54 "
    "rule=noop cut:s0@2.23..2.35 kill:s1@1.59..1.66*0 drop:all@1.64..2.4*0.49",
    # The same before the end: whoever was dropped for its silence came back before the others were heard again.
    "lock-step agents=3 servers=2 steps=1 iterations=4 every=2 noise=3117935090 patience=0.9 silence=8.3 update=0.54 "
    "rule=noop delay:s1>a2@2.11..2.74*2.01 cut:s0@2.23..2.48 kill:s1@1.4..1.66*3 drop:all@1.64..2.4*0.49",
]


@pytest.mark.parametrize("text", ENDED)
def test_all_come_to_an_end(text: str) -> None:
    history = parse(text)
    ends = Counter(event.partition(" ")[2] for _, event in trace_of(history))
    assert ends["finished"] + ends["finished alone"] == history.agents + history.servers


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_lock_step_violates_an_invariant(name: str) -> None:
    seed, invariant = FOUND_BY[name]
    violation = simulate_lock_step(generate(seed), *broken_machines(BROKEN[name])).violation
    assert violation is not None
    assert violation.invariant == invariant
    assert simulate_lock_step(generate(seed)).violation is None, "it is the lock step that is wrong, not the history"


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_lock_step_is_found_shrunk_and_replayed(name: str) -> None:
    machines = broken_machines(BROKEN[name])
    outcomes = ((seed, simulate_lock_step(generate(seed), *machines).violation) for seed in range(MOST_SEEDS))
    seed, violation = next((seed, violation) for seed, violation in outcomes if violation is not None)
    assert (seed, violation.invariant) == FOUND_BY[name]

    def fails(history: LockStepHistory) -> bool:
        found = simulate_lock_step(history, *machines).violation
        return found is not None and found.invariant == violation.invariant

    history = generate(seed)
    shrunk = shrink(history, fails)
    assert shrunk != history
    assert len(shrunk.faults) <= 4
    replayed = parse(str(shrunk))
    assert replayed == shrunk
    assert trace_of(replayed, *machines)[-1][1].startswith(violation.invariant)
    assert simulate_lock_step(replayed).violation is None, "it is the lock step that is wrong, not the history"


def test_ten_and_more_are_broken_in_every_part() -> None:
    assert set(FOUND_BY) == set(BROKEN)
    assert len(BROKEN) >= 10
    assert {broken.module for broken in BROKEN.values()} == {"membership", "starts", "gathering", "client", "server"}
    assert {invariant for _, invariant in FOUND_BY.values()} == {"L1", "L2", "L3", "L4", "L5", "L6"}


def test_a_history_happens_the_same_way_every_time() -> None:
    for seed in range(20):
        trace = trace_of(generate(seed))
        assert trace == trace_of(parse(str(generate(seed))))
        assert trace != trace_of(replace(generate(seed), noise=1))


def test_every_history_can_be_written_and_read() -> None:
    for seed in range(500):
        history = generate(seed)
        assert parse(str(history)) == history


def test_histories_have_faults_of_all_kinds() -> None:
    histories = [generate(seed) for seed in range(500)]
    faults = [fault for history in histories for fault in history.faults]
    kinds = Counter(fault.kind for fault in faults)
    expected = {"drop", "full", "duplicate", "delay", "cut", "stop", "silence", "slow", "kill", "lost", "liar"}
    assert set(kinds) == expected
    assert min(kinds.values()) > 30
    assert {history.rule for history in histories} == {"noop", "wait", "abort"}
    assert any(fault.stop == float("inf") for fault in faults), "an agent that never returns"
    assert any(fault.kind == "kill" and fault.where[0][0] == "s" and fault.amount for fault in faults)


def test_histories_bring_about_what_the_lock_step_is_there_for() -> None:
    """Iterations that begin again, agents that are outdated, processes that are lost and told, and the end of most."""
    texts = [text for seed in range(100) for _, text in trace_of(generate(seed))]
    kinds = Counter(text.partition(": ")[2].partition(" ")[0] for text in texts)
    assert min(kinds[kind] for kind in ("hello", "action", "observation", "bye", "stop", "outdated")) > 20
    assert sum("observation attempt 2" in text for text in texts) > 100
    ends = Counter(text.partition(" ")[2] for text in texts)
    assert ends["finished"] > 200
    assert min(ends["aborted"], ends["stopped"], ends["is killed"]) > 5
    assert ends["finished alone"] > 0


def test_without_faults_all_learn_in_every_iteration_and_end() -> None:
    history = replace(generate(3), agents=3, servers=2, steps=2, iterations=4, rule="abort", faults=())
    texts = [text for _, text in trace_of(history)]
    assert sum(text.endswith(" finished") for text in texts) == 5
    actions = [text for text in texts if "action" in text]
    assert len(actions) == 3 * 2 * 2 * 4, "each once"
    assert not any("attempt 2" in text for text in texts)


def test_a_fault_is_written_as_it_is_read() -> None:
    assert str(ProcessFault("drop", 1.5, 4.0, ("a0", "s2"), 0.25)) == "drop:a0>s2@1.5..4*0.25"
    assert str(ProcessFault("delay", 0.0, 4.0, (), 2.0)) == "delay:all@0..4*2"
    assert str(ProcessFault("cut", 1.0, 2.0, ("a0", "s1"))) == "cut:a0+s1@1..2"
    assert str(ProcessFault("kill", 1.0, float("inf"), ("a1",), 2.0)) == "kill:a1@1..inf*2"
    assert str(ProcessFault("stop", 1.0, 2.0, ("s0",))) == "stop:s0@1..2"


GOOD = str(replace(generate(0), agents=3, servers=2, rule="noop", faults=()))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("lock-step ", "", "begins with lock-step"),
        ("agents=3", "", "needs agents="),
        ("agents=3", "agents=three", "agents: expected an integer from 1 to 64, not 'three'"),
        ("servers=2", "servers=0", "servers: expected an integer from 1 to 16"),
        ("rule=noop", "rule=never", "rule must be noop or wait or abort"),
        ("rule=noop", "rule=noop colour=red", "has no colour="),
        ("patience=", "patience=-", "patience: expected a number"),
        ("rule=noop", "rule=noop flood:a0@0..1", "unknown fault"),
        ("rule=noop", "rule=noop loss", "malformed fault|unknown fault|expected"),
        ("rule=noop", "rule=noop drop:a0>a1@0..1*1", "malformed fault"),
        ("rule=noop", "rule=noop drop:a0>s1@0..1", "malformed fault"),
        ("rule=noop", "rule=noop drop:a0>s2@0..1*1", "integer from 0 to 1"),
        ("rule=noop", "rule=noop drop:b0>s0@0..1*1", "expected an integer"),
        ("rule=noop", "rule=noop drop:a0>s1@0..1*2", "number from 0 to 1"),
        ("rule=noop", "rule=noop drop:a0>s1@2..1*1", "must stop after it starts"),
        ("rule=noop", "rule=noop stop:a0@0..inf", "must stop after it starts"),
        ("rule=noop", "rule=noop stop:a0@0..1*2", "malformed fault"),
        ("rule=noop", "rule=noop lost:s0@0..1*2", "malformed fault"),
        ("rule=noop", "rule=noop cut:all@0..1", "malformed fault"),
    ],
)
def test_a_malformed_history_is_refused_with_a_reason(old: str, new: str, reason: str) -> None:
    assert old in GOOD
    parse(GOOD)
    with pytest.raises(ValueError, match=reason):
        parse(GOOD.replace(old, new, 1))
