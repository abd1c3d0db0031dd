"""One end of one link: a state machine without input or output, fed with messages and ticks of a clock, in seconds.

**The intuition.** Both ends of a link must apply the same activations to the link's dual y and mean ubar, though each
reaches the other only by messages that may be lost. No protocol can let both be sure that the other has applied the
last one (the two generals). So an end keeps two states: the *tip*, the latest that it committed, and the *base*, which
both ends are known to have. If one end committed what the other gave up, the next activation starts from the latest
state that both have, and that one commit is undone. States are named by the activation that made them; 0 is the start.

Normal: each end opens activation 1, sends its log ratios and says which states it has; with both in hand it commits::

    i: ratios 1, tip 0, base 0  ->                               j has both: base 0, tip 1
                                <-  j: ratios 1, tip 0, base 0   i has both: base 0, tip 1

A lost message: who lacks ratios asks. First it hears that they were sent, and if it asks again it gets them. From then
on both send ratios in copies and ask sooner, until nothing was lost for a while: `retries.py`::

    i: ratios 2, tip 1, base 0  ->  lost
                                <-  j: ratios 2, tip 1, base 0   i has both: base 1, tip 2
    i: beat 2                   <-> j: ask 2                     they were sent: have they not come yet?
    i: ratios 2, answered       <-> j: ask 2, answered           j has both: base 1, tip 2

If j's deadline passes first, j says `over` 2 and keeps base 0, tip 1. In 3 the ends name {2, 1} and {1, 0}: 1 it is.

A restart: j is back as incarnation 2 with no state but 0, and takes part from the next iteration on. i forgets what the
old one said. For the rest of this iteration the ends are estranged, if i has committed anything: i skips the link::

    i: ratios 3, tip 2, base 1  ->  lost
                                <-  j: over 9, incarnation 2     9 is the last: i gives 3 up, and opens no more

What a message does, by the activation that it names, against this end's latest, k::

    ratios   later: kept, and k's are asked for if k is open | k, open: commit | else: this end's ratios, or `over`
    ask      later: this end asks, too | k, or the last committed: `beat`, if again the ratios | else: `over`
    beat     k or later, k open: ask again
    over     k or later, k open: give up | always: nothing up to there is opened any more
    busy     k, open: refused

What always holds:

- I1 The {tip, base} of the two ends share a number, and states of the same number are bitwise equal.
- I2 One end may commit k while the other gives up. The next commit starts from the largest number that both ends
  have, which undoes it. One level of undo is enough: an end's states change only by a commit, and to commit a later
  activation it must have heard the other end open it, with the states that end then had.
- I3 A message is applied at most once, and only to the activation that is open.
- I4 A neighbour of which nothing was heard from an opening to its deadline is silent: later activations are skipped
  at once, each with a header-only sign of life, until anything valid is heard from it.
- I5 No message raises, and this end keeps at most one of the neighbour's for later.
"""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np

from matrpo.consensus import admm
from matrpo.consensus.link_types import Counters, LinkSettings, Outcome
from matrpo.consensus.message import LARGEST_RATIO, Kind, LinkMessage, has_valid_header, has_valid_payload
from matrpo.consensus.retries import Retries


class Link:
    """This agent's end of one link.

    Args:
        number: index of the link in the graph.
        neighbour: agent id of the other end.
        sign: C_e^q of this end, +1 or -1.
        settings: what all links of the agent have in common.
        outbox: where messages to send are appended, with the receiver's id.
        counters: where events are counted.

    Attributes:
        tip: the latest state; what the agent's next local step must use.
        base: the state that both ends are known to have.
        k: the largest activation number opened or skipped in this iteration.
        outcome: how the last activation that is over ended.
        silent: the neighbour is taken for dead.
        quarantined: the neighbour has sent ratios in this iteration that no honest one would: no more are exchanged.
        heard_at: time of the neighbour's last valid message in this iteration, or of `begin`.
        gap: mean square of u^q - u^other at the last commit of this iteration; None before it.
    """

    def __init__(
        self,
        number: int,
        neighbour: int,
        sign: int,
        settings: LinkSettings,
        outbox: list[tuple[int, LinkMessage]],
        counters: Counters,
    ) -> None:
        self.number = number
        self.neighbour = neighbour
        self.sign = sign
        self.silent = False
        self._settings = settings
        self._outbox = outbox
        self._counters = counters
        self._shape: tuple[int, int] | None = None
        self._incarnation = 0
        self._over = (-1, 0)
        self._later: LinkMessage | None = None
        self._answer: LinkMessage | None = None
        self._retries = Retries(settings.resend)
        self._reset(-1, (0, 0), 0.0)

    def begin(self, iteration: int, shape: tuple[int, int], now: float) -> None:
        """Start an iteration from state 0; keep what came early for it, and the answer a neighbour may still need."""
        self._shape = shape
        self._reset(iteration, shape, now)
        later = self._later
        if later is not None and later.iteration < iteration:
            self._later = None
            self._drop("late")
        elif later is not None and not has_valid_payload(later, self._settings.wire_dtype, shape):
            self._later = None
            self._drop("payload")
            self._quarantine()

    def _reset(self, iteration: int, shape: tuple[int, int], now: float) -> None:
        self.iteration = iteration
        self.k = 0
        self.tip = self.base = admm.initial_state(shape)
        self.outcome: Outcome | None = None
        self.gap: float | None = None
        self.quarantined = False
        self.heard_at = self._opened_at = now
        self._estranged = False
        self._open: LinkMessage | None = None
        self._refused = (-1, 0)
        self._heard = False

    def sit_out(self, iteration: int, now: float) -> None:
        """Take no part in an iteration later than all before, and say so, now and to whoever asks for it later."""
        self._reset(iteration, self._shape or (0, 0), now)
        self.k = self._settings.last_k
        if self._later is not None and self._later.position <= self._position:
            self._later = None
            self._drop("late")
        self.finish(confirm=False)

    def lose(self) -> None:
        """The connection is lost: nothing can come from the neighbour until anything valid is heard from it."""
        self.silent = True
        if self._open:
            self._close(Outcome.GIVEN_UP)

    @property
    def is_open(self) -> bool:
        """Whether an activation is waiting for the neighbour's ratios."""
        return self._open is not None

    def fingerprints(self) -> dict[str, int]:
        """A checksum of each state that this end keeps, by the state's number: what I1 says is equal at both ends."""
        states = (self.base, self.tip)
        return {str(state.number): crc32(state.ubar.tobytes(), crc32(state.y.tobytes())) for state in states}

    @property
    def pending(self) -> int | None:
        """The activation of this iteration that the neighbour has opened and this end has not, if any."""
        later = self._later
        return later.k if later and later.iteration == self.iteration and later.k > self.k else None

    @property
    def neighbour_done(self) -> bool:
        """Whether the neighbour opens no more activations in this iteration."""
        ahead = self._later is not None and self._later.iteration > self.iteration
        return ahead or self._over >= (self.iteration, self._settings.last_k)

    def approach(self, k: int) -> bool:
        """Whether activation k, larger than all before, is worth a local step; if not, it is skipped.

        It is skipped when the neighbour is silent, quarantined or past k, or was restarted after a commit with it: the
        two ends would then hold different states of the same number.
        """
        self.k = k
        if self._later and self._later.position < self._position:
            self._later = None
            self._drop("late")
        past = self._over >= self._position or (self._later and self._later.position > self._position)
        if not (self.silent or self.quarantined or past or self._estranged):
            return True
        self.outcome = Outcome.SKIPPED
        self._counters.skips += 1
        self._send(self._header("over", *self._position, answered=True))
        return False

    def open(self, k: int, u: np.ndarray, now: float) -> None:
        """Send u for activation k, and commit at once if the neighbour's is here; `approach(k)` was true.

        Args:
            k: the activation.
            u: this agent's log ratios, shape (N, M); used as rounded to the wire's dtype.
            now: the time.

        Raises:
            ValueError: u has another shape or is not finite: the agent's own mistake.
        """
        if u.shape != self._shape or not np.isfinite(u).all():
            raise ValueError(f"log ratios must be finite, of shape {self._shape}, not {u.shape}")
        rounded = np.clip(u, -LARGEST_RATIO, LARGEST_RATIO).astype(self._settings.wire_dtype)
        rounded.flags.writeable = False
        reply = self._later if self._later and self._later.position == self._position else None
        if reply is not None:
            self._later = None
        message = self._header("ratios", self.iteration, k, answered=reply is not None)
        self._open = replace(message, tip=self.tip.number, base=self.base.number, u=rounded)
        self._send(self._open)
        self._opened_at = now
        self._retries.open(now)
        self._heard = False
        if reply is not None:
            self._commit(self._open, reply)

    def _commit(self, own: LinkMessage, other: LinkMessage) -> None:
        """Apply both ends' ratios to the latest state that both have (I2)."""
        assert own.u is not None
        assert other.u is not None
        common = max({own.tip, own.base} & {other.tip, other.base}, default=None)
        if common is None:
            self._drop("no common state")
            self._give_up()
            return
        own_u, other_u = own.u.astype(np.float32, copy=False), other.u.astype(np.float32, copy=False)
        self.base = self.tip if self.tip.number == common else self.base
        self.tip = admm.commit(self.base, own.k, own_u, other_u, self.sign, self._settings.beta)
        self.gap = float(np.square(own_u - other_u).mean())
        self._answer = own if own.answered else replace(own, answered=True)
        self._retries.note_commit()
        self._close(Outcome.COMMITTED)

    def _close(self, outcome: Outcome) -> None:
        self._counters.commits += outcome is Outcome.COMMITTED
        self._counters.give_ups += outcome is not Outcome.COMMITTED
        self.outcome = outcome
        self._open = None

    def _give_up(self) -> None:
        """Close the open activation without a commit, and tell the neighbour, which may wait for it."""
        self._send(self._header("over", *self._position, answered=True))
        self._close(Outcome.GIVEN_UP)

    def next_event(self) -> float | None:
        """The time at which `tick` has something to do; None while no activation is open."""
        return min(self._retries.ask_at, self._deadline_at) if self._open else None

    @property
    def _deadline_at(self) -> float:
        return self._opened_at + self._settings.deadline

    def tick(self, now: float) -> None:
        """Give the open activation up if its deadline has passed, or ask for the neighbour's ratios if that is due."""
        if self._open and now >= self._deadline_at:
            self.silent = not self._heard
            self._give_up()
        elif self._open and now >= self._retries.ask_at:
            self._retries.ask(now, self.heard_at)
            self._send(self._header("ask", *self._position))

    def receive(self, message: LinkMessage, now: float) -> None:
        """Take in any message; one that is not valid is dropped and counted."""
        fault = self._fault(message)
        if fault is not None:
            self._drop(fault)
            if fault == "payload" and message.iteration == self.iteration:
                self._quarantine()
            return
        self._hear(message, now)
        if message.position == self._refused and message.kind in ("ratios", "ask"):
            self._send(self._header("busy", *self._refused))
        elif message.kind == "ratios":
            self._receive_ratios(message)
        elif message.kind == "ask":
            self._receive_question(message)
        elif message.kind == "beat" and self._open and message.position >= self._position:
            self._retries.hear_answer(now)
            self._insist()
        elif message.kind == "over":
            self._pass(message.position)
            if not message.answered:
                self._send(self._header("over", *message.position, answered=True))
        elif message.kind == "busy" and self._open and message.position == self._position:
            self._close(Outcome.REFUSED)

    def _fault(self, message: LinkMessage) -> str | None:
        """Why a message is not valid, as one of `DROP_REASONS`."""
        if not has_valid_header(message, self._settings.last_k):
            return "header"
        if (message.sender, message.link) != (self.neighbour, self.number):
            return "address"
        if message.incarnation < self._incarnation:
            return "incarnation"
        return None if has_valid_payload(message, self._settings.wire_dtype, self._shape) else "payload"

    def _hear(self, message: LinkMessage, now: float) -> None:
        """Note that the neighbour lives, and whether it was restarted."""
        self.heard_at = now
        self._heard = True
        self.silent = False
        if message.incarnation == self._incarnation:
            return
        self._incarnation = message.incarnation
        self._later = self._answer = None
        self._over = (-1, 0)
        self._estranged = self.tip.number > 0
        if self._open and self._estranged:
            self._give_up()

    def _quarantine(self) -> None:
        """Take no part in any activation with this neighbour until the next iteration, and tell it so."""
        if self.quarantined:
            return
        self.quarantined = True
        self._counters.quarantines += 1
        if self._open:
            self._give_up()

    def _receive_ratios(self, message: LinkMessage) -> None:
        if message.position > self._position:
            self._later = message
            if self._open:
                self._insist()
        elif self._open and message.position == self._position:
            self._commit(self._open, message)
        else:
            self._drop("late")
            if not message.answered:
                self._answer_late(message)

    def _receive_question(self, message: LinkMessage) -> None:
        """Say that ratios were sent, or send them again; ask a neighbour that is ahead for its own, unless here."""
        if message.position > self._position:
            if not message.answered and not (self._later and self._later.position == message.position):
                self._retries.note_loss(message.position)
                self._send(self._header("ask", *message.position, answered=True))
        elif message.answered or self._sent(message.position) is None or self._retries.told_in_vain(self.heard_at):
            self._answer_late(message)
        else:
            self._send(self._header("beat", *message.position))

    def _answer_late(self, message: LinkMessage) -> None:
        """Send a neighbour that may wait the ratios of what is open or was committed here, or else tell it not to."""
        if (sent := self._sent(message.position)) is not None:
            self._counters.resends += 1
            self._send(sent)
            if message.kind == "ask":
                self._retries.note_loss(message.position)
        else:
            self._send(self._header("over", *message.position, answered=True))

    def _sent(self, position: tuple[int, int]) -> LinkMessage | None:
        """This end's ratios for an activation that is open or was committed last."""
        return next((own for own in (self._open, self._answer) if own and own.position == position), None)

    def _insist(self) -> None:
        """Ask for ratios that the neighbour has sent before what arrived just now; if it gave up, it will say so."""
        self._retries.insist(self._position, self.heard_at)
        self._send(self._header("ask", *self._position, answered=True))

    def _pass(self, position: tuple[int, int]) -> None:
        """Note that the neighbour takes no part in anything up to this position."""
        self._over = max(self._over, position)
        if self._open and self._over >= self._position:
            self._close(Outcome.GIVEN_UP)

    @property
    def _position(self) -> tuple[int, int]:
        return self.iteration, self.k

    def beat(self) -> None:
        """Send a sign of life."""
        self._send(self._header("beat", *self._position))

    def refuse(self) -> None:
        """Drop the neighbour's pending activation for good and tell it that this end is busy."""
        if self._later is not None:
            self._refused = self._later.position
            self._send(self._header("busy", *self._refused))
            self._later = None

    def finish(self, confirm: bool) -> None:
        """Tell the neighbour that this end is done with this iteration, and ask it to confirm that."""
        if self.pending is not None:
            self._later = None
        self._send(self._header("over", self.iteration, self._settings.last_k, answered=not confirm))

    def _header(self, kind: Kind, iteration: int, k: int, answered: bool = False) -> LinkMessage:
        agent, incarnation = self._settings.agent, self._settings.incarnation
        return LinkMessage(kind, agent, incarnation, iteration, self.number, k, answered=answered)

    def _send(self, message: LinkMessage) -> None:
        """Send a message; ratios in as many copies as losses call for, of which only the first may want an answer."""
        self._outbox.append((self.neighbour, message))
        if message.kind == "ratios" and self._retries.copies > 1:
            self._outbox += [(self.neighbour, replace(message, answered=True))] * (self._retries.copies - 1)

    def _drop(self, reason: str) -> None:
        self._counters.drops[reason] += 1
