"""Histories of the lock step, the simulator's scenarios as data: agents, environment servers, rules, injected faults.

`generate` draws one from a seed. `str` writes it on one line, which begins with `lock-step`, and `parse` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

from matrpo.decentralized.lock_step.rules import Rules
from matrpo.simulation.fields import choice, integer, number, split_line

PREFIX = "lock-step"
"""The first word of such a history's line."""

MESSAGE_FAULTS = ("drop", "full", "duplicate", "delay")
PROCESS_FAULTS = ("stop", "silence", "slow", "kill", "lost", "liar")

_AMOUNTS = dict.fromkeys(MESSAGE_FAULTS, 1.0) | {"delay": 60.0, "slow": 1e4, "kill": 1000.0, "lost": 1000.0}
"""The largest amount of the kinds that have one."""

_NOTICED = 3.0
"""Seconds after which what happens to a process is noticed by all that are connected to it."""

_ENDLESS = ("kill", "lost", "liar")
_RULES = ("noop", "wait", "abort")
_LIMITS = {
    "agents": (1, 64),
    "servers": (1, 16),
    "steps": (1, 1000),
    "iterations": (1, 1000),
    "every": (1, 1000),
    "noise": (0, 2**63 - 1),
}
_LONGEST = 1e4
_SECONDS = {"patience": (0.0, _LONGEST), "silence": (0.1, _LONGEST), "update": (0.0, _LONGEST)}


@dataclass(frozen=True)
class ProcessFault:
    """An injected fault, active from `start` to `stop`, in seconds of true time.

    Attributes:
        kind: on messages: `drop` and `duplicate` with the probability `amount`; `full`: with that probability a
            message cannot be sent, and the sender knows; `delay` by up to `amount` seconds, each message by its own,
            which reorders them. `cut`: no connection to a process, or between two; both ends are told. `stop`: a
            process stands still, and is soon taken for lost. `silence`: a process is there and does nothing. `slow`: an
            agent's updates take `amount` seconds more. `kill`: a process dies when it has sent `amount` more messages,
            and is started again from what is on its disk. `lost`: the same of an agent, whose folder is lost. `liar`:
            an agent says whatever it likes, and is started again as an honest one.
        start: when it begins.
        stop: when it ends; infinite for a process that does not return, or lies for ever.
        where: (sender, receiver), or empty for all messages; the two processes; or the one. Agents are named `a0`,
            servers `s0`.
        amount: see `kind`; 0 for the kinds that have none.
    """

    kind: str
    start: float
    stop: float
    where: tuple[str, ...]
    amount: float = 0.0

    def __str__(self) -> str:
        mark = ">" if self.kind in MESSAGE_FAULTS else "+"
        amount = f"*{self.amount:g}" if self.kind in _AMOUNTS else ""
        return f"{self.kind}:{mark.join(self.where) or 'all'}@{self.start:g}..{self.stop:g}{amount}"


@dataclass(frozen=True)
class LockStepHistory:
    """Scenario of a simulation: all that its outcome depends on.

    Attributes:
        agents: N.
        servers: S.
        steps: T, of an iteration.
        iterations: how many the run has.
        rule: for lost agents: `noop`, `wait` or `abort`.
        patience, silence: see `Rules`.
        every: every how many iterations a process writes a checkpoint.
        update: the longest that half of an agent's update takes, in seconds.
        noise: seed of the network's random stream, and of a liar's.
        faults: the injected faults.
    """

    agents: int
    servers: int
    steps: int
    iterations: int
    rule: str
    patience: float
    silence: float
    every: int
    update: float
    noise: int
    faults: tuple[ProcessFault, ...]

    def __str__(self) -> str:
        numbers = [f"{name}={getattr(self, name)}" for name in _LIMITS]
        seconds = [f"{name}={getattr(self, name):g}" for name in _SECONDS]
        return " ".join([PREFIX, *numbers, *seconds, f"rule={self.rule}", *map(str, self.faults)])

    @property
    def rules(self) -> Rules:
        """What all servers have in common."""
        return Rules(self.agents, self.steps, self.iterations, self.servers, self.rule, self.patience, self.silence)

    @property
    def calm_at(self) -> float:
        """Time at which the last fault is over, what it has delayed is there, and whoever was to notice it has.

        One that never ends counts for what it does in its first seconds.
        """
        ends = [fault.start if math.isinf(fault.stop) else fault.stop for fault in self.faults]
        delays = [fault.amount for fault in self.faults if fault.kind in ("delay", "slow")]
        return max(ends, default=0.0) + sum(delays) + _NOTICED


def generate(seed: int) -> LockStepHistory:
    """Generate a random history from a seed, at least 0."""
    rng = Random(f"{PREFIX} {seed}")
    agents, servers = rng.choice((1, 2, 2, 2, 2, 3, 3, 3, 3, 4)), rng.choice((1, 1, 1, 2, 2, 3))
    rule, patience = rng.choice(("noop",) * 5 + ("wait", "wait", "abort")), round(rng.uniform(0.5, 5.0), 1)
    return LockStepHistory(
        agents=agents,
        servers=servers,
        steps=rng.choice((1, 1, 1, 2, 3)),
        iterations=rng.randint(2, 5),
        rule=rule,
        patience=patience,
        silence=round(rng.choice((3.0, 6.0, 12.0)) * rng.uniform(1.0, 1.5), 1),
        every=rng.randint(1, 3),
        update=round(rng.uniform(0.02, 0.6), 2),
        noise=rng.getrandbits(32),
        faults=_draw_faults(rng, agents, servers, rule, patience),
    )


def _draw_faults(rng: Random, agents: int, servers: int, rule: str, patience: float) -> tuple[ProcessFault, ...]:
    if agents > 1 and rng.random() < 0.15:
        return _draw_parting(rng, agents, servers, patience)
    liars = [_draw_liar(rng, agents)] if agents > 1 and rng.random() < 0.3 else []
    if liars and rng.random() < 0.5:
        return tuple(liars)
    faults = [_draw_fault(rng, agents, servers, rule) for _ in range(rng.randint(1, 5))]
    return (*faults, *liars)


def _draw_parting(rng: Random, agents: int, servers: int, patience: float) -> tuple[ProcessFault, ...]:
    """A server dies when only some have heard it, and one of those finds it again when the others have gone on."""
    told = rng.randrange(1, agents)
    agent, server = f"a{rng.randrange(told)}", f"s{rng.randrange(servers)}"
    start = round(rng.uniform(0.2, 1.5), 2)
    stop = round(start + rng.uniform(1.0, 1.5), 2)
    until = round(stop + patience + rng.uniform(0.5, 2.0), 2)
    kill = ProcessFault("kill", start, stop, (server,), float(told))
    return kill, ProcessFault("cut", stop, until, (agent, server))


def _draw_liar(rng: Random, agents: int) -> ProcessFault:
    start = round(rng.choice((0.0, rng.uniform(0.0, 3.0))), 2)
    stop = math.inf if rng.random() < 0.3 else round(start + rng.uniform(1.0, 8.0), 2)
    return ProcessFault("liar", start, stop, (f"a{rng.randrange(agents)}",))


def _draw_fault(rng: Random, agents: int, servers: int, rule: str) -> ProcessFault:
    kind = rng.choice((*MESSAGE_FAULTS, "drop", "cut", "cut", "stop", "silence", "slow", *("kill",) * 6, "lost"))
    start = round(rng.uniform(0.0, 3.0), 2)
    stop = round(start + rng.choice((0.3, 1.0, 4.0, 10.0)) * rng.uniform(0.1, 1.0), 2)
    agent, server = f"a{rng.randrange(agents)}", f"s{rng.randrange(servers)}"
    if kind in MESSAGE_FAULTS:
        where = rng.choice(((), (agent, server), (server, agent)))
        amount = rng.choice((1.0, rng.uniform(0.05, 0.7))) if kind != "delay" else rng.uniform(0.1, 3.0)
        return ProcessFault(kind, start, stop, where, round(amount, 2))
    if kind == "cut":
        return ProcessFault(kind, start, stop, rng.choice(((agent,), (server,), (agent, server))))
    who = agent if kind in ("lost", "slow") else rng.choice((agent, server))
    if kind in ("kill", "lost"):
        if who == agent and rule != "wait" and rng.random() < 0.15:
            stop = math.inf
        return ProcessFault(kind, start, stop, (who,), rng.choice((0, 0, 1, 2, 3)))
    return ProcessFault(kind, start, stop, (who,), round(rng.uniform(0.2, 10.0), 1) if kind == "slow" else 0.0)


def parse(text: str) -> LockStepHistory:
    """Parse a history from the line that `str` wrote.

    Raises:
        ValueError: it is no such line. The text is the reason.
    """
    fields, words = split_line(text, (*_LIMITS, *_SECONDS, "rule"))
    if words[:1] != [PREFIX]:
        raise ValueError(f"a history of the lock step begins with {PREFIX}")
    numbers = {name: integer(name, fields[name], *limits) for name, limits in _LIMITS.items()}
    seconds = {name: number(name, fields[name], *limits) for name, limits in _SECONDS.items()}
    agents, servers = numbers["agents"], numbers["servers"]
    faults = tuple(_parse_fault(word, agents, servers) for word in words[1:])
    values: dict[str, Any] = numbers | seconds
    return LockStepHistory(**values, rule=choice("rule", fields["rule"], _RULES), faults=faults)


def _parse_fault(word: str, agents: int, servers: int) -> ProcessFault:
    """Parse a fault `kind:where@start..stop*amount`, as `ProcessFault` writes it."""
    kind, _, rest = word.partition(":")
    where, _, rest = rest.partition("@")
    times, star, amount = rest.partition("*")
    start, _, stop = times.partition("..")
    if kind not in (*MESSAGE_FAULTS, *PROCESS_FAULTS, "cut"):
        raise ValueError(f"unknown fault {word!r}")
    mark = ">" if kind in MESSAGE_FAULTS else "+"
    among = () if where == "all" else tuple(where.split(mark))
    for name in among:
        integer(word, name[1:], 0, {"a": agents, "s": servers}.get(name[:1], 0) - 1)
    sides = {name[0] for name in among}
    sizes = (0, 2) if kind in MESSAGE_FAULTS else (1, 2) if kind == "cut" else (1,)
    only_agents = kind in ("lost", "slow", "liar")
    if len(among) not in sizes or len(sides) != len(among) or (only_agents and sides != {"a"}):
        raise ValueError(f"malformed fault {word!r}")
    if bool(star) != (kind in _AMOUNTS):
        raise ValueError(f"malformed fault {word!r}")
    begins, ends = number(word, start, 0.0, _LONGEST), number(word, stop, 0.0, math.inf)
    if ends < begins or (ends > _LONGEST and kind not in _ENDLESS):
        raise ValueError(f"fault {word!r} must stop after it starts, within {_LONGEST:g} s")
    return ProcessFault(kind, begins, ends, among, number(word, amount, 0.0, _AMOUNTS[kind]) if star else 0.0)
