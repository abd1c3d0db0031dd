"""Invariants of the link protocol, checked after every event of a simulation against an independent record.

The record lists which log ratios every agent sent for which activation. From it follows, to the bit, what each state of
each end of a link must be. See `matrpo.consensus.link` for I1 to I5, `matrpo.consensus.peer` for I6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from matrpo.consensus.admm import LinkState, initial_state
from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Outcome
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.simulation.outcome import Violation

_NO_COMMON_STATE = "no common state"
_COLLECTIONS = frozenset({list, dict, set})
_ROUNDING = 1e-6
"""Rounding error of a sum of float32, relative to the sum of its terms' magnitudes."""

_MESSAGES_KEPT = 3
"""Messages that an end may keep: its open activation, the answer for its last commit, one of the neighbour's."""


class _End:
    """Record of one end of a link, from its messages and its states."""

    def __init__(self, agent: int, link: Link, incarnation: int) -> None:
        self.agent = agent
        self.link = link
        self.incarnation = incarnation
        self.muted = False
        """The neighbour let a whole deadline pass in silence, and has not been heard since."""
        self.newest = 0
        """The neighbour's largest incarnation that was heard."""
        self.position = (-1, 0)
        self.opened_at: float | None = None
        self.heard = False
        """The neighbour has been heard since the last opening of an activation."""
        self.heard_at = -math.inf
        self.hears = False
        """The present event is a message of the neighbour."""
        self.cut_off = False
        """The connection was lost, and the neighbour has not been heard since."""
        self.over = self.ahead = self.refused = (-1, 0)
        """What the neighbour's newest incarnation takes no part in, the latest that it opened, and what it refused."""
        self.answers: tuple[tuple[int, int], int] = ((-1, 0), 0)
        """The last commit, and the neighbour's incarnation in it."""
        self.open: tuple[tuple[int, int], float] | None = None
        """What was open after the last event, and since when."""
        self.counts = (0, 0, 0, 0)
        """Commits, give-ups, skips, and commits that found no common state, so far."""
        self.begin()

    def begin(self) -> None:
        """Note that the link began an iteration."""
        link = self.link
        self.iteration = link.iteration
        fresh = next((state for state in (link.base, link.tip) if not state.number), None)
        self.tip = self.base = fresh or initial_state(link.tip.y.shape)
        self.partners: set[int] = set()
        """The neighbour's incarnations whose ratios were committed in this iteration."""
        self.estranged = False
        """The neighbour was restarted after a commit in this iteration."""

    def hear(self, message: LinkMessage) -> None:
        """Note a message of the neighbour that is about to arrive."""
        if message.incarnation < self.newest:
            return
        if message.incarnation > self.newest:
            self.newest = message.incarnation
            self.over = self.ahead = (-1, 0)
            self.estranged = self.link.tip.number > 0
        self.heard = self.hears = True
        self.muted = self.cut_off = False
        if message.kind == "over":
            self.over = max(self.over, message.position)
        elif message.kind == "ratios":
            self.ahead = max(self.ahead, message.position)
        elif message.kind == "busy":
            self.refused = message.position

    def may_skip(self, position: tuple[int, int], now: float, deadline: float) -> bool:
        """Whether there is a reason not to open an activation."""
        if self.over >= position or self.ahead > position or self.estranged or self.link.quarantined:
            return True
        return self.cut_off or now >= self.heard_at + deadline

    def may_give_up(self, now: float, deadline: float) -> bool:
        """Whether there is a reason to give up what was open after the last event."""
        assert self.open is not None
        position, opened_at = self.open
        told = self.over >= position or self.refused == position
        return told or now >= opened_at + deadline or self.cut_off or self.estranged or self.link.quarantined

    def is_overdue(self, now: float, deadline: float) -> bool:
        """Whether an activation ran to its deadline and the neighbour was silent all the time."""
        return self.opened_at is not None and now >= self.opened_at + deadline and not self.heard


class Invariants:
    """Checker of the invariants in one simulation.

    Args:
        peers: all agents' consensus state machines.
        beta: ADMM penalty.
        deadline: seconds of an agent's clock until an activation must be given up.
        averages: whether the consensus is by averaging.
    """

    def __init__(self, peers: Sequence[Peer], beta: float, deadline: float, averages: bool = False) -> None:
        self._averages = averages
        self._peers: dict[int, Peer] = {}
        self._half = np.float32(beta / 2)
        self._deadline = deadline
        self._ends: dict[tuple[int, int], _End] = {}
        self._ratios: dict[tuple[int, int, int, int], list[LinkMessage]] = {}
        """Log ratios sent, of each incarnation, by (link, sender, iteration, k)."""
        self._committed: set[tuple[int, int, int, int, int]] = set()
        """Commits seen: (link, agent, incarnation, iteration, k)."""
        self._begun: set[tuple[int, int]] = set()
        self._torn: set[tuple[int, int]] = set()
        """(link, iteration) where an end began the iteration twice, in two incarnations."""
        for peer in peers:
            self.started(peer, 0)

    def started(self, peer: Peer, incarnation: int) -> None:
        """Record that an agent's process was started."""
        self._peers[peer.agent] = peer
        for e, link in peer.links.items():
            self._ends[peer.agent, e] = _End(peer.agent, link, incarnation)

    def began(self, peer: Peer, iteration: int) -> None:
        """Record that an agent begins an iteration."""
        if (peer.agent, iteration) in self._begun:
            self._torn.update((e, iteration) for e in peer.links)
        self._begun.add((peer.agent, iteration))

    def sent(self, message: LinkMessage, now: float) -> None:
        """Record a message that an agent sends; `now` is the time on its clock."""
        if message.u is None:
            return
        end = self._ends[message.sender, message.link]
        self._enter(message)
        position, incarnation = end.answers
        if message.position == position and incarnation < end.newest:
            raise Violation("I1", f"{_name(message)} is sent anew, though committed with incarnation {incarnation}")
        if message.position <= end.position:
            return
        if end.muted or end.is_overdue(now, self._deadline):
            raise Violation("I4", f"{_name(message)} is opened although the neighbour is silent")
        end.position = message.position
        end.opened_at, end.heard = now, False
        if message.tip:
            self._committed.add((message.link, message.sender, message.incarnation, message.iteration, message.tip))

    def _enter(self, message: LinkMessage) -> None:
        assert message.u is not None
        key = (message.link, message.sender, message.iteration, message.k)
        entries = self._ratios.setdefault(key, [])
        known = next((entry for entry in entries if entry.incarnation == message.incarnation), None)
        if known is None:
            entries.append(message)
        elif known.u is not message.u:
            raise Violation("I3", f"{_name(message)} is sent with other ratios than before")

    def received(self, agent: int, message: LinkMessage) -> None:
        """Record that a neighbour's message, as it was sent, is about to reach an agent."""
        self._ends[agent, message.link].hear(message)

    def lost(self, agent: int, neighbour: int) -> None:
        """Record that an agent is about to learn that the connection to a neighbour is lost."""
        for (q, _), end in self._ends.items():
            if q == agent and end.link.neighbour == neighbour:
                end.cut_off = True

    def has_committed(self, agent: int, link: int, position: tuple[int, int]) -> bool:
        """Whether an agent's present process was seen to commit an activation."""
        return (link, agent, self._ends[agent, link].incarnation, *position) in self._committed

    def changed(self, peer: Peer, now: float, ticked: bool, wake: float | None) -> None:
        """Check the invariants of an agent after an event.

        Args:
            peer: the agent's consensus state machine.
            now: the time on its clock.
            ticked: whether its timers were run.
            wake: time of its next timer.
        """
        for e, link in peer.links.items():
            end, counters = self._ends[peer.agent, e], peer.link_counters[e]
            counts = counters.commits, counters.give_ups, counters.skips, counters.drops[_NO_COMMON_STATE]
            if link.iteration != end.iteration:
                end.begin()
                if end.position[0] < link.iteration:  # What was open then is over, and not for silence.
                    end.opened_at = None
                self._check_memory(link)
                self._check_common(peer.agent, e, link)
            if link.tip is not end.tip or link.base is not end.base:
                self._check_commit(peer.agent, e, end)
                self._check_common(peer.agent, e, link)
                self._check_sum(link.iteration)
            if end.opened_at is not None:
                self._check_deadline(end, now, ticked, wake)
            if end.hears:
                end.heard_at, end.hears = now, False
            if counts != end.counts:
                self._check_counts(end, counts, now)
            end.open = None if end.opened_at is None else (end.position, end.opened_at)

    def _check_counts(self, end: _End, counts: tuple[int, int, int, int], now: float) -> None:
        """I2 and I4: nothing is skipped or given up without a reason."""
        link = end.link
        commits, give_ups, skips, none_common = (now > then for now, then in zip(counts, end.counts, strict=True))
        end.counts = counts
        where, position = f"agent {end.agent}, link {link.number}", (link.iteration, link.k)
        if none_common and (link.number, link.iteration) not in self._torn:
            raise Violation("I2", f"{where}: no common state to commit {link.k} from")
        skips = skips and link.outcome is Outcome.SKIPPED and not link.is_open
        if skips and not end.may_skip(position, now, self._deadline):
            raise Violation("I4", f"{where}: {position} is skipped without a reason")
        if end.open and give_ups and not (commits or none_common or end.may_give_up(now, self._deadline)):
            raise Violation("I4", f"{where}: {end.open[0]} is given up without a reason")

    def _check_deadline(self, end: _End, now: float, ticked: bool, wake: float | None) -> None:
        """I4, for an end that was seen to open an activation."""
        assert end.opened_at is not None
        deadline = end.opened_at + self._deadline
        if not end.link.is_open:
            end.muted = ticked and end.is_overdue(now, self._deadline)
            end.opened_at = None
        elif ticked and now >= deadline:
            raise Violation("I4", f"{end.position} is still open on link {end.link.number} at its deadline")
        elif wake is None or wake > deadline:
            raise Violation("I4", f"{end.position} is open on link {end.link.number}, and its deadline will be missed")

    def _check_commit(self, agent: int, e: int, end: _End) -> None:
        """I3: the states are those before, or made of them and of what both ends sent for one activation."""
        link = end.link
        known = {id(state) for state in (end.tip, end.base)}
        numbers = {end.tip.number, end.base.number}
        if id(link.base) not in known:
            self._check_state(agent, e, end, link.base, (end.tip, end.base))
        if id(link.tip) in known:
            raise Violation("I3", f"agent {agent}, link {e}: the base changed and the tip did not")
        other = self._check_state(agent, e, end, link.tip, (link.base,))
        if id(link.base) in known and link.base.number != max(numbers & {other.tip, other.base}, default=-1):
            raise Violation(
                "I2", f"agent {agent}, link {e}: {link.tip.number} is not based on the largest common state"
            )
        if link.base.number and (e, link.iteration) not in self._torn:
            states = ((e, link.neighbour, i, link.iteration, link.base.number) for i in range(end.newest + 1))
            if self._committed.isdisjoint(states):
                raise Violation("I1", f"agent {agent}, link {e}: the neighbour never had the base {link.base.number}")
        end.tip, end.base = link.tip, link.base

    def _check_state(self, agent: int, e: int, end: _End, state: LinkState, before: Sequence[LinkState]) -> LinkMessage:
        """The message of the neighbour with which a state was committed."""
        link, k = end.link, state.number
        if k <= end.tip.number:
            raise Violation("I3", f"agent {agent}, link {e}: activation {k} is committed after {end.tip.number}")
        self._committed.add((e, agent, end.incarnation, link.iteration, k))
        own = self._ratios.get((e, agent, link.iteration, k), [])
        for theirs in self._ratios.get((e, link.neighbour, link.iteration, k), ()):
            for ours in own:
                if ours.incarnation == end.incarnation and self._is_commit(state, before, ours.u, theirs.u, link.sign):
                    self._check_partner(agent, e, end, theirs.incarnation)
                    end.answers = ours.position, theirs.incarnation
                    return theirs
        raise Violation("I3", f"agent {agent}, link {e}: state {k} is not the ratios of {k} applied once")

    def _is_commit(
        self,
        state: LinkState,
        before: Sequence[LinkState],
        ours: np.ndarray | None,
        theirs: np.ndarray | None,
        sign: int,
    ) -> bool:
        """Whether a state follows from another by (61) to (63), computed independently of `admm`."""
        assert ours is not None
        assert theirs is not None
        first, second = (ours, theirs) if sign > 0 else (theirs, ours)
        first, second = first.astype(np.float32, copy=False), second.astype(np.float32, copy=False)
        if ((first + second) * np.float32(0.5)).tobytes() != state.ubar.tobytes():
            return False
        step = (first - second) * self._half
        y = state.y.tobytes()
        return any((earlier.y + step).tobytes() == y for earlier in before)

    def _check_partner(self, agent: int, e: int, end: _End, incarnation: int) -> None:
        end.partners.add(incarnation)
        if len(end.partners) > 1:
            text = f"agent {agent}, link {e}: commits with incarnations {sorted(end.partners)} of the neighbour"
            raise Violation("I1", f"{text} in iteration {end.iteration}")

    def _check_common(self, agent: int, e: int, link: Link) -> None:
        """I1, between ends in the same iteration that made no commit with an incarnation that is gone."""
        own, other = self._ends[agent, e], self._ends[link.neighbour, e]
        if other.link.iteration != link.iteration or link.iteration < 0:
            return
        if own.partners - {other.incarnation} or other.partners - {own.incarnation}:
            return
        if link.tip.y.shape != other.link.tip.y.shape:  # An end that sits out does not know the shape.
            return
        ours, theirs = {s.number: s for s in (link.base, link.tip)}, (other.link.tip, other.link.base)
        shared = [(ours[state.number], state) for state in theirs if state.number in ours]
        where = f"link {e} in iteration {link.iteration}"
        if not shared:
            numbers = f"{sorted(ours)} and {sorted(state.number for state in theirs)}"
            raise Violation("I1", f"{where}: no common state in {numbers}")
        for a, b in shared:
            if a.y.tobytes() != b.y.tobytes() or a.ubar.tobytes() != b.ubar.tobytes():
                raise Violation("I1", f"{where}: the ends have different states {a.number}")

    def _check_sum(self, iteration: int) -> None:
        """I6, where the ends of all links are in one iteration and in one state."""
        if not self._averages:
            return
        for (_, e), end in self._ends.items():
            own, other = end.link, self._ends[end.link.neighbour, e].link
            if (e, iteration) in self._torn or own.iteration != iteration or own.tip.number != other.tip.number:
                return
        terms = [peer.term() for peer in self._peers.values()]
        if len({term.shape for term in terms}) > 1:  # An agent that sits out need not know the shape.
            return
        if np.abs(sum(terms)).max() > _ROUNDING * np.abs(terms).sum():
            raise Violation("I6", f"what the agents average has another sum in iteration {iteration} than it had")

    def _check_memory(self, link: Link) -> None:
        """I5: an end keeps a few messages and no collection of its own."""
        messages = collected = 0
        for value in vars(link).values():
            if type(value) is LinkMessage:
                messages += 1
            elif type(value) in _COLLECTIONS:
                collected += len(value)
        if max(messages, collected) > _MESSAGES_KEPT:
            raise Violation("I5", f"link {link.number} keeps {messages} messages and {collected} things more")


def _name(message: LinkMessage) -> str:
    return f"agent {message.sender}, link {message.link}, {message.position}"
