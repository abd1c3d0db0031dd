"""Invariants of the lock step, checked after every event of a simulation against what all processes truly know.

See `matrpo.decentralized.lock_step.server` for L1 to L6. What a lie may move is checked by the numbers that servers
have come to without it, and by whose part each message changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from matrpo.consensus.message import LARGEST_NUMBER
from matrpo.decentralized.lock_step.client import Client
from matrpo.decentralized.lock_step.messages import Hello, Observation, Outdated, Stop
from matrpo.decentralized.lock_step.rules import Rules
from matrpo.decentralized.lock_step.server import Server
from matrpo.simulation.outcome import Violation

_COLLECTIONS = frozenset({list, dict, set})

_PROMPT = 1e-6
"""Seconds by which a timer may be late, for rounding."""


@dataclass(frozen=True)
class Learnt:
    """What an agent has learnt from in an iteration: each server's attempt, and the states of its environments."""

    attempts: tuple[int, ...]
    states: tuple[tuple[int, ...], ...]


Lineage = dict[int, Learnt]
"""What an agent's state has learnt from, by iteration."""


@dataclass
class _Record:
    """Record of a server since it was started.

    Attributes:
        machine: its side of the lock step.
        held_since: the reading of its clock since which half of the agents wait for the others.
        step: the attempt, iteration and step that they wait in.
        charged: the agents that it has waited for in vain, and not heard from since.
        lied_to: the agents whose hello that it goes by was a liar's.
    """

    machine: Server
    held_since: float | None = None
    step: tuple[int, int, int | None] = (0, 0, None)
    charged: set[int] = field(default_factory=set)
    lied_to: set[int] = field(default_factory=set)


class _Before(NamedTuple):
    """A server's machine before an event."""

    t: int | None
    iteration: int
    attempt: int
    taking_part: frozenset[int]
    left: frozenset[int]
    connected: frozenset[int]
    finished: frozenset[int]
    acted: frozenset[int]


class Invariants:
    """Checker of the invariants in one simulation.

    Args:
        rules: of the run.
        states: the honest agents' states that exist, by agent.

    Attributes:
        events: messages, timers and faults so far.
        liars: the agents that lie.
        have_lied: those, and those that did.
    """

    def __init__(self, rules: Rules, states: Callable[[], dict[int, Lineage]]) -> None:
        self.events = 0
        self.liars: set[int] = set()
        self.have_lied: set[int] = set()
        self._rules = rules
        self._states = states
        self._most = 4 * (rules.num_agents + rules.num_servers + 1)
        self._records: dict[int, _Record] = {}
        self._lies: dict[int, Hello] = {}
        self._iteration = 0
        """The latest iteration that a server was in, by itself or because it was told the truth."""
        self._attempt = 0

    # Agents

    def receive(self, client: Client, server: int, message: Observation | Outdated | Stop) -> None:
        """Let an agent's machine handle a message."""
        try:
            client.receive(server, message)
        except Exception as error:
            raise Violation("L5", f"an agent raises {type(error).__name__}: {error}") from error
        self._check_memory(client)

    def sent(self, message: Any) -> None:
        """L5: every number of a message fits the wire."""
        if isinstance(message, Hello) and message.sender in self.liars:
            self._lies[id(message)] = message
        for name, value in vars(message).items():
            if isinstance(value, int) and name != "action" and not 0 <= value < LARGEST_NUMBER:
                raise Violation("L5", f"{type(message).__name__.lower()} with {name} {value} is sent")

    def observes(self, agent: int, joint: dict[int, Any], action: int | None) -> None:
        """L1: a step was made with the action that the agent took in it."""
        if action is not None and joint.get(agent) != action:
            raise Violation("L1", f"agent {agent} observes a step that was made with another action of its")

    def learns(self, agent: int, iteration: int, learnt: Learnt) -> None:
        """L1 and L2: an honest agent is about to learn from an iteration."""
        states = self._states()
        own = states.pop(agent)
        if len(set(learnt.attempts)) > 1:
            raise Violation("L1", f"agent {agent} learns from attempts {learnt.attempts} at iteration {iteration}")
        if iteration <= max(own, default=0) or learnt in own.values():
            raise Violation("L2", f"agent {agent} learns from iteration {iteration} after {sorted(own)}")
        for other, state in states.items():
            if iteration in state and state[iteration] != learnt:
                attempts = f"{learnt.attempts[0]} and {state[iteration].attempts[0]}"
                raise Violation("L1", f"agents {agent} and {other} learn from attempts {attempts} at {iteration}")

    def is_steady(self, agent: int, learnt: Learnt) -> bool:
        """Whether an agent takes part at all servers, in what it has just learnt from or the next."""
        machines = [record.machine for record in self._records.values()]
        attempt = learnt.attempts[0]
        return all(agent in machine.membership.taking_part and machine.attempt == attempt for machine in machines)

    # Servers

    def started(self, server: int, machine: Server) -> None:
        """Record that a server was started."""
        self._records[server] = _Record(machine)
        self._iteration = max(self._iteration, machine.iteration)
        self._attempt = max(self._attempt, machine.attempt)

    def call(self, server: int, method: str, *arguments: Any) -> Any:
        """Let a server's machine handle an event, and check what that has changed."""
        record = self._records[server]
        machine, membership = record.machine, record.machine.membership
        before = _Before(
            machine.t,
            machine.iteration,
            machine.attempt,
            frozenset(membership.taking_part),
            frozenset(membership.left),
            frozenset(membership.connected),
            frozenset(membership.finished),
            frozenset(machine.actions),
        )
        concerned = self._concerned(machine, method, arguments)
        is_hello = method == "receive" and isinstance(arguments[1], Hello)
        try:
            result = getattr(machine, method)(*arguments)
        except Exception as error:
            raise Violation("L5", f"server {server} raises {type(error).__name__}: {error}") from error
        if is_hello and membership.latest(arguments[1].sender) is arguments[1]:
            is_lie = id(arguments[1]) in self._lies
            record.lied_to = record.lied_to | concerned if is_lie else record.lied_to - concerned
        self._check_part(server, machine, method, before, concerned)
        if before.t is not None and machine.t is None:
            self._check_break(server, method, before, concerned)
        elif machine.t == 0 and (before.t is None or method == "stepped"):
            self._check_start(server, record, before)
        if method != "tick":
            self._check_memory(machine)
        if is_hello:
            record.charged -= concerned
        return result

    def tick(self, server: int, now: float) -> None:
        """Let time pass for a server's machine, and check that nobody is waited for too long."""
        if self._rules.on_loss != "noop":
            self.call(server, "tick", now)
            return
        record = self._records[server]
        machine = record.machine
        waiting = self._waiting(machine)
        self._note_waiting(record, waiting, now)
        overdue = record.held_since is not None and now >= record.held_since + self._rules.silence
        self.call(server, "tick", now)
        if machine.t is None:
            record.held_since = None
            return
        now_waiting = self._waiting(machine)
        dropped = waiting - now_waiting if record.step == _step(machine) else set()
        if dropped - machine.actions.keys() and not overdue:
            raise Violation("L4", f"server {server} gives agents {sorted(dropped)} up before their deadline")
        if overdue and waiting & now_waiting and record.step == _step(machine):
            raise Violation("L4", f"server {server} waits for agents {sorted(now_waiting)} beyond their deadline")
        if overdue:
            record.charged |= dropped
        if again := record.charged & now_waiting:
            raise Violation("L4", f"server {server} waits again for agents {sorted(again)}, which have said nothing")
        self._note_waiting(record, now_waiting, now)
        if record.held_since is not None and machine.next_event() > record.held_since + self._rules.silence + _PROMPT:
            raise Violation("L4", f"server {server} will miss the deadline of agents {sorted(now_waiting)}")

    def _waiting(self, machine: Server) -> set[int]:
        """The agents that the others wait for, under the rule `noop`."""
        membership = machine.membership
        if machine.t is None:
            return set()
        if machine.iteration > self._rules.iterations:
            return membership.unfinished & membership.connected
        return membership.taking_part - membership.left - machine.actions.keys()

    def _note_waiting(self, record: _Record, waiting: set[int], now: float) -> None:
        """Note since when at least half of the agents that are here wait for the others."""
        machine = record.machine
        if record.step != _step(machine):
            record.step, record.held_since = _step(machine), None
        membership, last = machine.membership, machine.iteration > self._rules.iterations
        there = membership.taking_part | membership.outside(now)
        done = membership.finished if last else (there & membership.connected) - membership.finished - waiting
        held = bool(waiting and done) and len(done) >= len(waiting)
        if not held:
            record.held_since = None
        elif record.held_since is None:
            record.held_since = now

    def _concerned(self, machine: Server, method: str, arguments: tuple[Any, ...]) -> set[int]:
        """The agents whose part an event may change."""
        if method == "receive":
            return {arguments[1].sender}
        if method == "lose":
            return {agent for agent, address in machine.addresses.items() if address == arguments[0]}
        return set(range(self._rules.num_agents))

    def _check_part(self, server: int, machine: Server, method: str, before: _Before, concerned: set[int]) -> None:
        """L3: a message of one agent changes that agent's part, unless the iteration is thrown away."""
        membership = machine.membership
        changed = (before.connected ^ membership.connected) | (before.finished ^ membership.finished)
        if machine.t is not None:
            changed |= (before.taking_part - membership.taking_part) | (before.left ^ membership.left)
            changed |= before.acted ^ machine.actions.keys()
        if changed - concerned:
            raise Violation("L3", f"server {server}: {method} of {sorted(concerned)} changes {sorted(changed)}")
        if machine.attempt < before.attempt or machine.iteration < before.iteration:
            raise Violation("L3", f"server {server} goes back from {before.iteration}, {before.attempt}")

    def _check_break(self, server: int, method: str, before: _Before, concerned: set[int]) -> None:
        """L3: an iteration is thrown away only if more than half have left it; by the rule `wait`, if one was lost."""
        if self._rules.on_loss == "wait":
            return
        membership = self._records[server].machine.membership
        gone = (before.connected - membership.connected) | membership.finished
        left = (before.left | (concerned if method == "receive" else set())) - gone
        if before.iteration > self._rules.iterations:
            outside = membership.connected - before.taking_part
            left |= {agent for agent in outside - gone if membership.latest(agent).attempt > before.attempt}
        there = (before.taking_part - gone) | left
        if method != "tick" and there and 2 * len(left) <= len(there):
            raise Violation("L3", f"server {server} throws {before.iteration} away, which {sorted(left)} have left")
        if left and left <= self.liars and there - left:
            raise Violation("L3", f"server {server} throws {before.iteration} away because {sorted(left)} lie")

    def _check_start(self, server: int, record: _Record, before: _Before) -> None:
        """L3: an iteration is begun at numbers that come from a server, or from the one agent that is there."""
        machine = record.machine
        membership = machine.membership
        alone = membership.connected - membership.finished <= record.lied_to
        if before.t is None and not alone:
            if machine.iteration > self._iteration:
                raise Violation("L3", f"server {server} begins {machine.iteration}; none was beyond {self._iteration}")
            if machine.attempt > max(self._attempt, before.attempt + 1):
                raise Violation("L3", f"server {server} begins attempt {machine.attempt}; none beyond {self._attempt}")
        self._iteration = max(self._iteration, machine.iteration)
        self._attempt = max(self._attempt, machine.attempt)

    def _check_memory(self, machine: Server | Client) -> None:
        """L5: a machine keeps a few things for each agent and server."""
        for name, value in vars(machine).items():
            if type(value) in _COLLECTIONS and len(value) > self._most:
                raise Violation("L5", f"{type(machine).__name__.lower()}{name} keeps {len(value)} things")


def _step(machine: Server) -> tuple[int, int, int | None]:
    return machine.attempt, machine.iteration, machine.t
