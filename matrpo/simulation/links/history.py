"""Histories, the simulator's scenarios as data: graph, schedule, agents' clocks and injected faults.

`generate` draws one from a seed. `str` writes it on one line and `parse` reads that line back, so that any history,
a shrunk one too, can be run again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from matrpo.simulation.fields import choice, integer, number, split_line
from matrpo.topology.graph import CommunicationGraph

LINK_FAULTS = ("drop", "duplicate", "delay", "corrupt")
AGENT_FAULTS = ("stop", "kill", "reset")

_CHOICES = {
    "consensus": ("admm", "averaging"),
    "schedule": ("seeded", "matchings", "poisson"),
    "dtype": ("float32", "float16"),
    "absent": ("wait", "leave"),
}
_LIMITS = {"agents": (1, 32), "iterations": (1, 1000), "k": (1, 10000), "samples": (1, 64), "noise": (0, 2**63 - 1)}
_LONGEST = 1e4
_RATES = (0.75, 1.3)


@dataclass(frozen=True)
class Fault:
    """An injected fault, active from `start` to `stop`, in seconds of true time.

    Attributes:
        kind: on messages: `drop`, `duplicate` and `corrupt` with the probability `amount`; `delay` by up to
            `amount` seconds, each message by its own, which reorders them. `partition`: nothing passes between a group
            and the others. `stop`: an agent does nothing, its messages wait. `kill`: an agent dies, and returns
            in the next iteration that begins. `reset`: an agent dies, and resumes the iteration that it was in.
        start: when it begins.
        stop: when it ends; infinite for an agent that does not return.
        where: (sender, receiver), or empty for all messages; the group; or (agent,).
        amount: see `kind`; 1 for the kinds that have none.
    """

    kind: str
    start: float
    stop: float
    where: tuple[int, ...]
    amount: float = 1.0

    def __str__(self) -> str:
        mark = ">" if self.kind in LINK_FAULTS else "+"
        where = mark.join(map(str, self.where)) or "all"
        amount = f"*{self.amount:g}" if self.kind in LINK_FAULTS else ""
        return f"{self.kind}:{where}@{self.start:g}..{self.stop:g}{amount}"


@dataclass(frozen=True)
class History:
    """Scenario of a simulation: all that its outcome depends on.

    Attributes:
        agents: N.
        links: the links (i, j), i < j, sorted.
        iterations: how many iterations to run at least.
        k: K, link activations per iteration.
        samples: M.
        consensus: `admm` or `averaging`.
        schedule: `seeded`, `matchings` or `poisson`.
        dtype: of log ratios on the wire.
        absent: whether the environment waits for agents that are paused, or leaves them behind.
        noise: seed of the schedules and of the network's random stream.
        clocks: each agent's (reading at true time 0, seconds per true second).
        faults: the injected faults.
    """

    agents: int
    links: tuple[tuple[int, int], ...]
    iterations: int
    k: int
    samples: int
    consensus: str
    schedule: str
    dtype: str
    absent: str
    noise: int
    clocks: tuple[tuple[float, float], ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        links = ",".join(f"{i}-{j}" for i, j in self.links)
        clocks = ",".join(f"{offset:g}:{rate:g}" for offset, rate in self.clocks)
        fields = [f"agents={self.agents}", f"links={links}", f"iterations={self.iterations}", f"k={self.k}"]
        fields += [f"samples={self.samples}", f"consensus={self.consensus}", f"schedule={self.schedule}"]
        fields += [f"dtype={self.dtype}", f"absent={self.absent}", f"noise={self.noise}", f"clocks={clocks}"]
        return " ".join([*fields, *map(str, self.faults)])

    @property
    def graph(self) -> CommunicationGraph:
        """The communication graph."""
        return CommunicationGraph(self.agents, self.links, "simulated")

    @property
    def calm_at(self) -> float:
        """Time at which the last fault is over and all delayed messages have arrived."""
        ends = [fault.start if math.isinf(fault.stop) else fault.stop for fault in self.faults]
        return max(ends, default=0.0) + sum(fault.amount for fault in self.faults if fault.kind == "delay")


def generate(seed: int) -> History:
    """Generate a random history from a seed, at least 0."""
    rng = Random(seed)
    agents = rng.choice((2, 2, 2, 2, 2, 2, 3, 3, 3, 4))
    links = _draw_links(rng, agents)
    clocks = tuple((round(rng.uniform(0, 100), 1), round(rng.uniform(*_RATES), 2)) for _ in range(agents))
    return History(
        agents=agents,
        links=links,
        iterations=rng.randint(1, 3),
        k=rng.randint(2, 2 + len(links)),
        samples=rng.randint(1, 3),
        consensus="averaging" if seed % 4 == 3 else "admm",
        schedule=rng.choice(("seeded", "matchings", *("poisson",) * 4)),
        dtype=rng.choice(("float32", "float16")),
        absent=rng.choice(("wait", "leave")),
        noise=rng.getrandbits(32),
        clocks=clocks,
        faults=_draw_faults(rng, agents, links),
    )


def _draw_links(rng: Random, agents: int) -> tuple[tuple[int, int], ...]:
    """A random connected graph: a tree, most often with some links more."""
    links = {(rng.randrange(j), j) for j in range(1, agents)}
    for _ in range(rng.randrange(agents)):
        i, j = sorted(rng.sample(range(agents), 2))
        links.add((i, j))
    return tuple(sorted(links))


def _draw_faults(rng: Random, agents: int, links: tuple[tuple[int, int], ...]) -> tuple[Fault, ...]:
    faults = [_draw_fault(rng, agents, links) for _ in range(rng.randint(1, 3))]
    for fault in list(faults):
        if fault.kind == "reset" and rng.random() < 0.5:  # The dead process's messages arrive among the new one's.
            faults.append(Fault("delay", max(0.0, round(fault.start - 1.0, 2)), fault.stop, (), 2.0))
    situation = rng.random()
    if situation < 0.1:
        faults += _draw_forgotten(rng, agents)
    elif situation < 0.2:
        start = faults[0].start
        stop = round(start + 3.0, 2)
        faults.append(Fault("drop", start, stop, (), round(rng.uniform(0.4, 0.8), 2)))
        faults.append(Fault("corrupt", start, stop, (), round(rng.uniform(0.1, 0.4), 2)))
    elif situation < 0.4:  # What arrives before an agent's first iteration is of a shape that it cannot know.
        faults.append(Fault("corrupt", 0.0, 2.0, (), round(rng.uniform(0.3, 0.9), 2)))
    elif situation < 0.5 and agents > 2:
        faults += _draw_held_up(rng, agents)
    return tuple(faults)


def _draw_held_up(rng: Random, agents: int) -> list[Fault]:
    """An agent that sleeps and holds up a neighbour, whose other neighbour is restarted meanwhile."""
    asleep, restarted = rng.sample(range(agents), 2)
    start = round(rng.uniform(0.1, 2.0), 2)
    dies = round(start + rng.uniform(0.3, 2.0), 2)
    return [
        Fault("stop", start, round(start + rng.uniform(2.0, 3.0), 2), (asleep,)),
        Fault("reset", dies, round(dies + rng.uniform(0.02, 0.5), 2), (restarted,)),
    ]


def _draw_forgotten(rng: Random, agents: int) -> list[Fault]:
    """An agent that takes its sleeping neighbours for dead, and is itself restarted before they wake up."""
    restarted = rng.randrange(agents)
    wakes = round(rng.uniform(7.2, 9.8), 2)
    dies = round(rng.uniform(4.1, 6.8), 2)
    asleep = [Fault("stop", 0.05, wakes, (agent,)) for agent in range(agents) if agent != restarted]
    return [*asleep, Fault("reset", dies, round(dies + rng.uniform(0.02, 0.5), 2), (restarted,))]


def _draw_fault(rng: Random, agents: int, links: tuple[tuple[int, int], ...]) -> Fault:
    kind = rng.choice((*LINK_FAULTS, "drop", "drop", "partition", *AGENT_FAULTS, "reset"))
    start = round(rng.uniform(0.0, 2.0), 2)
    stop = round(start + rng.uniform(0.1, 2.5), 2)
    if kind in AGENT_FAULTS:
        if kind == "reset":
            stop = round(start + rng.uniform(0.02, 1.5), 2)
        elif kind == "kill" and rng.random() < 0.2:
            stop = math.inf
        return Fault(kind, start, stop, (rng.randrange(agents),))
    if kind == "partition":
        group = rng.sample(range(agents), rng.randint(1, agents - 1))
        return Fault(kind, start, stop, tuple(sorted(group)))
    i, j = rng.choice(links)
    where = rng.choice(((), (i, j), (j, i)))
    if kind == "delay":
        return Fault(kind, start, stop, where, round(rng.choice((0.2, 1.0, 2.5)) * rng.random() + 0.01, 2))
    if kind == "drop":
        return _draw_loss(rng, start, stop, where)
    return Fault(kind, start, stop, where, round(rng.uniform(0.05, 0.7), 2))


def _draw_loss(rng: Random, start: float, stop: float, where: tuple[int, ...]) -> Fault:
    """A random message loss: light; or total in one direction; or nearly total for several deadlines."""
    character = rng.choice(("some", "dead", "storm"))
    if character == "some":
        return Fault("drop", start, stop, where, round(rng.uniform(0.05, 0.6), 2))
    if character == "dead" and where:
        return Fault("drop", start, stop, where)
    return Fault("drop", start, round(start + rng.uniform(4.0, 7.0), 2), (), round(rng.uniform(0.5, 0.85), 2))


def parse(text: str) -> History:
    """Parse a history from the line that `str` wrote.

    Raises:
        ValueError: it is no such line. The text is the reason.
    """
    fields, words = split_line(text, (*_LIMITS, *_CHOICES, "links", "clocks"))
    numbers = {name: integer(name, fields[name], *limits) for name, limits in _LIMITS.items()}
    chosen = {name: choice(name, fields[name], allowed) for name, allowed in _CHOICES.items()}
    agents = numbers["agents"]
    history = History(
        agents=agents,
        links=tuple(sorted({_link(item, agents) for item in fields["links"].split(",") if item})),
        iterations=numbers["iterations"],
        k=numbers["k"],
        samples=numbers["samples"],
        consensus=chosen["consensus"],
        schedule=chosen["schedule"],
        dtype=chosen["dtype"],
        absent=chosen["absent"],
        noise=numbers["noise"],
        clocks=tuple(_clock(item) for item in fields["clocks"].split(",")),
        faults=tuple(_parse_fault(word, agents) for word in words),
    )
    if len(history.clocks) != agents:
        raise ValueError(f"clocks must name {agents} clocks, not {len(history.clocks)}")
    return history


def _parse_fault(word: str, agents: int) -> Fault:
    """Parse a fault `kind:where@start..stop*amount`, as `Fault` writes it."""
    kind, _, rest = word.partition(":")
    where, _, rest = rest.partition("@")
    times, star, amount = rest.partition("*")
    start, _, stop = times.partition("..")
    if kind not in (*LINK_FAULTS, *AGENT_FAULTS, "partition"):
        raise ValueError(f"unknown fault {word!r}")
    mark = ">" if kind in LINK_FAULTS else "+"
    among = () if where == "all" else tuple(integer(word, item, 0, agents - 1) for item in where.split(mark))
    sizes = (0, 2) if kind in LINK_FAULTS else range(1, agents) if kind == "partition" else (1,)
    if len(among) not in sizes or bool(star) != (kind in LINK_FAULTS):
        raise ValueError(f"malformed fault {word!r}")
    begins, ends = number(word, start, 0.0, _LONGEST), number(word, stop, 0.0, math.inf)
    if ends < begins or (ends > _LONGEST and kind not in ("kill", "reset")):
        raise ValueError(f"fault {word!r} must stop after it starts, within {_LONGEST:g} s")
    limit = 60.0 if kind == "delay" else 1.0
    return Fault(kind, begins, ends, among, number(word, amount, 0.0, limit) if star else 1.0)


def _link(text: str, agents: int) -> tuple[int, int]:
    first, _, second = text.partition("-")
    i, j = integer("links", first, 0, agents - 1), integer("links", second, 0, agents - 1)
    if i >= j:
        raise ValueError(f"links must be written i-j with i < j, not {text!r}")
    return i, j


def _clock(text: str) -> tuple[float, float]:
    offset, _, rate = text.partition(":")
    return number("clocks", offset, 0.0, _LONGEST), number("clocks", rate, 0.1, 10.0)
