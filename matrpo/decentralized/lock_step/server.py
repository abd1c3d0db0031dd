"""An environment server's side of the lock step: a state machine without sockets, clocks and environments.

**The intuition.** A server steps its environments when all agents that take part have acted, and waits for nobody for
ever. It cannot know whether an agent has learnt from the last iteration, and other servers may be ahead or behind: all
it hears of that is what agents say. So every start of an iteration has a number, its *attempt*, and whoever has heard
of a later one is done with the earlier. Nobody is in charge of others: what one agent says moves that agent alone.
It is played through thousands of faults, and with liars, in `matrpo/simulation/lock_step/simulator.py`.

Normal, with T = 2 steps an iteration; (i, T) is (i+1, 0), sent as the one or the other::

    hello 1          ->                      an agent can act in iteration 1
                     <-  observation 1, 0    when all are there (the first start waits for ever, later ones do not)
    action 1, 0      ->
                     <-  observation 1, 1    when all who take part have acted
    action 1, 1      ->
                     <-  observation 1, 2    the iteration is over; the agent learns, and acts next at (2, 0)

A lost message: an agent repeats its hello and its action until it is answered::

    action 1, 1      ->  lost
    hello 1          ->                      5 s later
                     <-  observation 1, 1    its action is not here: it acts again

A restart of the server: nobody's actions fit any more. It begins again where its agents are, with a later attempt::

    hello 2, attempt 1  ->                   the agent has not got (2, T) of attempt 1, and throws iteration 2 away
                        <-  observation 2, 0, attempt 2

What a message does, by whether the iteration is starting (t = 0), running, or being gathered for::

    hello    of an earlier incarnation: told which is the latest | starting: admitted | running: at the next start
             of one that wants a later iteration than the one that starts: told of its attempt
             of one that takes part, and wants this: told the last observation again, unless its action is here
             of one that takes part, and wants later: it has left
    action   of this attempt and step, from one that takes part: kept; anything else changes nothing
    bye      at the end: the agent is finished; before it: it has left, too

What always holds:

- L1 All agents that learn from an iteration learn from one attempt at it, the same at all servers, and from the same
  samples, with the actions that they took.
- L2 No agent learns from an iteration twice, or goes back: who has learnt from i wants i + 1, and acts in no earlier
  one. (A checkpoint that is loaded knows no more than what was learnt before it.)
- L3 A message of one agent changes that agent's part and no more: an iteration breaks off when more than half of those
  that take part have left it (under the rule `wait`, any, for all wait for it), and is begun at an iteration and an
  attempt that a server has come to, or that two agents know of. Where one agent is alone with a server, or all others
  have finished, it is believed: an iteration more if there are other servers, and `GREATEST_LEAP` attempts more.
- L4 An agent that is connected and does nothing costs the others its deadline: from when half of those that are here
  have acted, or wait for a later start. Then the rule for lost agents applies to it until it says hello again, and it
  is kept out for as long as it has cost, twice as long each time. (Under `wait`, all wait.)
- L5 No number in a message can make a later message illegal, no message raises, every number that is sent fits the
  wire, and a machine keeps a few things for each agent and server.
- L6 Whoever takes part ends: with the run, with a rule's word, or by being dropped; when nothing fails any more, what
  is begun is made, with all that are here. (A run begins when all are here for the first time, however long that takes.
  Under `wait`, the end waits for all that have not said goodbye, too.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from matrpo.decentralized.lock_step.gathering import Gathering
from matrpo.decentralized.lock_step.membership import Membership
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated
from matrpo.decentralized.lock_step.rules import LATEST_INCARNATION, Address, Answer, News, Rules
from matrpo.envs.shared import AgentStep


class Server:
    """One environment server's side of the lock step. Times are seconds of one monotonic clock.

    The driver calls `tick` often, or at `next_event`, sends what `take_outbox` gives, steps the environments with
    `actions` when they are `complete` and says so with `stepped`, until the run is `over` or has an `end`. Before it
    sends anything, it writes `attempt` down, and before the observations that end an iteration, that it has ended.

    Args:
        rules: of the run.
        steps: what each agent observes first.
        iteration: the one to begin, from 1.
        attempt: the number of this start.
        ended: the last iteration that an earlier process of this server has ended; 0 if there was none.
        returns: the run goes on meanwhile: this is not its first start.

    Attributes:
        membership: who takes part.
        attempt: the number of the running attempt.
        iteration, t: the running iteration, and the steps that it has made; `t` is None while agents are gathered.
        actions: the actions of the agents so far, by agent, (B, w) each.
        end: why the run is to end early, in one line; None if it is not.
    """

    def __init__(
        self, rules: Rules, steps: Sequence[AgentStep], iteration: int, attempt: int, ended: int, returns: bool
    ) -> None:
        self.membership = Membership(rules.num_agents)
        self.attempt = attempt
        self.iteration = iteration
        self.t: int | None = None
        self.actions: dict[int, np.ndarray] = {}
        self.end: str | None = None
        self._rules = rules
        self._steps = steps
        self._gathering = Gathering(rules, self.membership, ended, returns)
        self._now = -math.inf
        self._half_done_at = math.inf
        self._alone_until = -math.inf
        self._addresses: dict[int, Address] = {}
        self._outbox: list[Answer] = []
        self._news: list[News] = []
        self._refused: list[str] = []

    # What the driver asks

    @property
    def complete(self) -> bool:
        """Whether all actions that the next step waits for are here."""
        if self.t is None or self._last or self.end is not None:
            return False
        return bool(self._needed) and self.actions.keys() >= self._needed

    @property
    def over(self) -> bool:
        """Whether all iterations have ended, and all agents that are waited for have said goodbye, or nobody comes."""
        heard = bool(self.membership.finished) or self._now >= self._alone_until
        return self._last and not self._waiting and heard

    @property
    def waits_for(self) -> set[int]:
        """The agents that are waited for now."""
        return self._waiting or self.membership.missing

    @property
    def where(self) -> str:
        """Where the run is, in words."""
        return f"at step {self.label}" if self.label else "before the next iteration"

    @property
    def label(self) -> tuple[int, int] | None:
        """The running step, by the iteration that has just ended if one has; None while agents are gathered."""
        if self.t is None:
            return None
        return (self.iteration, self.t) if self.t else (self.iteration - 1, self._rules.length)

    @property
    def addresses(self) -> dict[int, Address]:
        """Where each agent is that has said hello and was not lost since."""
        return dict(self._addresses)

    def next_event(self) -> float:
        """The time until which nothing happens by itself; infinity if nothing will."""
        if self.t is None:
            return self._gathering.until()
        alone_until = self._alone_until if self._alone_until > self._now else math.inf
        return min(self._half_done_at + self._rules.silence, alone_until)

    def take_outbox(self) -> list[Answer]:
        """The messages to send."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def take_news(self) -> list[News]:
        """Lines for the log about what happened since the last call, with their levels."""
        news, self._news = self._news, []
        return news

    def take_refused(self) -> list[str]:
        """What was refused, or is hard to believe, since the last call: of whom, and why."""
        refused, self._refused = self._refused, []
        return refused

    # What the driver tells

    def receive(self, address: Address, message: Hello | Action | Bye) -> None:
        """Handle an agent's message."""
        if isinstance(message, Hello):
            self._hello(address, message)
        elif self._addresses.get(message.sender) != address:
            self._refused.append(f"agent {message.sender} said hello from elsewhere, or not at all")
        elif isinstance(message, Bye):
            self._bye(message.sender)
        else:
            self._act(message)
        self._break_if_left()

    def lose(self, address: Address) -> None:
        """A connection is gone."""
        for agent in [agent for agent, at in self._addresses.items() if at == address]:
            del self._addresses[agent]
            self._lose(agent, "is lost")

    def tick(self, now: float) -> None:
        """Let time pass: begin an iteration when it is due, and deal with agents that are silent."""
        self._now = now
        if self.t is None:
            self._gather(now)
        if self.t is None:
            return
        half_done = self._waiting and 2 * len(self._done) >= len(self._done | self._waiting)
        self._half_done_at = min(self._half_done_at, now) if half_done else math.inf
        if now >= self._half_done_at + self._rules.silence:
            self._half_done_at = math.inf
            for agent in sorted(self._waiting & self.membership.connected):
                if self._rules.on_loss != "wait":
                    self.membership.bar(agent, now, self._rules.silence)
                self._lose(agent, f"has done nothing for {self._rules.silence:g} s")

    def stepped(self, steps: Sequence[AgentStep]) -> bool:
        """The environments have made a step with `actions`; returns whether that has ended the iteration."""
        assert self.t is not None
        self._steps = steps
        self._clear()
        self.t += 1
        ended = self.t == self._rules.length
        for agent in sorted(self._needed):
            self._observe(agent, self.iteration, self.t)
        if ended:
            self._gathering.ended = self.iteration
            self._begin(self.iteration + 1)
        return ended

    # Agents

    def _hello(self, address: Address, hello: Hello) -> None:
        agent, latest = hello.sender, self.membership.latest(hello.sender)
        if hello.incarnation < (known := min(latest.incarnation, LATEST_INCARNATION)):
            self._outbox.append((address, agent, Outdated(known)))
            return
        if doubt := self._rules.doubt(hello, latest, self.attempt):
            self._refused.append(f"agent {agent}'s hello: {doubt}")
        if not self._rules.allows(hello):
            return
        self._addresses[agent] = address
        if self.membership.hello(hello):
            self.actions.pop(agent, None)
            self._note_loss(agent, "was restarted")
            if self._running and self._rules.on_loss == "wait":
                self._break()
        if self.t is not None:
            self.membership.leave(agent, self.iteration, self.attempt)
        self._answer(agent)

    def _answer(self, agent: int) -> None:
        """Tell an agent that said hello what it needs: the last observation again, or the start of an iteration."""
        membership = self.membership
        if self.t is None or agent in membership.left:
            return
        if agent in membership.taking_part:
            if membership.latest(agent).iteration < self.iteration:  # who has acted wants that: else it was another
                self.actions.pop(agent, None)
            if agent not in self.actions:
                self._observe(agent, *self._label_for(agent))
            return
        if not self._running:
            self._admit()
        if self._is_deserted:
            self._break()

    def _act(self, message: Action) -> None:
        agent = message.sender
        if (
            self.t is None
            or self._last
            or message.attempt != self.attempt
            or agent not in self._needed
            or (message.iteration, message.t) not in ((self.iteration, self.t), self.label)
        ):
            return
        self.actions[agent] = message.action

    def _bye(self, agent: int) -> None:
        self.membership.finished.add(agent)
        if agent in self.membership.taking_part and not self._last:
            self.membership.left.add(agent)

    def _lose(self, agent: int, how: str) -> None:
        """An agent is lost, or as good as that: the rule of the run applies to it."""
        waits = self._rules.on_loss == "wait"
        if how == "is lost" or not waits:
            self.membership.connected.discard(agent)
        if not waits:
            self.membership.drop(agent)
            self.actions.pop(agent, None)
        if agent not in self.membership.finished:
            self._note_loss(agent, how)
        if self._last and how == "is lost":  # the end is not here before somebody has been told
            self._alone_until = self._now + self._rules.patience
        self._break_if_left()

    def _note_loss(self, agent: int, how: str) -> None:
        rule = self._rules.on_loss
        if rule == "abort":
            self.end = f"agent {agent} {how}, and on_agent_loss is abort"
        what_now = "all wait" if rule == "wait" else "actions of zeros instead"
        self._news.append((logging.WARNING, f"agent {agent} {how} {self.where}; {what_now}"))

    # Iterations

    @property
    def _running(self) -> bool:
        """Whether an iteration is between its start and its end."""
        return bool(self.t)

    @property
    def _last(self) -> bool:
        """Whether the last iteration has ended."""
        return self.t is not None and self.iteration > self._rules.iterations

    @property
    def _needed(self) -> set[int]:
        """The agents whose actions the next step waits for."""
        return self.membership.taking_part - self.membership.left

    @property
    def _waiting(self) -> set[int]:
        """The agents that the next step waits for, or after the last one, the end."""
        if self.t is None:
            return set()
        if not self._last:
            return self._needed - self.actions.keys()
        unfinished = self.membership.unfinished
        return unfinished if self._rules.on_loss == "wait" else unfinished & self.membership.connected

    @property
    def _done(self) -> set[int]:
        """The agents that have done their part, so that the others keep them waiting."""
        membership = self.membership
        if self._last:
            return membership.finished
        return ((self.actions.keys() | membership.left) - membership.finished) | membership.outside(self._now)

    def _label_for(self, agent: int) -> tuple[int, int]:
        """The running step as an agent knows it: the start of what it wants, or the end of what it acted in."""
        is_new = agent in self.membership.newcomers or self.membership.latest(agent).iteration >= self.iteration
        return self.label if self.label and (self._running or not is_new) else (self.iteration, 0)

    def _gather(self, now: float) -> None:
        """Begin an iteration once all agents are here, or some are and the others do not come."""
        if not self._gathering.is_over(now):
            return
        missing = sorted(self.membership.missing)
        for agent in missing:
            self._note_loss(agent, "did not come back")
        if not missing:
            self._news.append((logging.INFO, "all agents are here"))
        iteration, self.attempt = self._gathering.place(self.iteration, self.attempt)
        self._begin(iteration)

    def _begin(self, iteration: int) -> None:
        """The start of an iteration: from here on agents can be admitted to it, until the first step."""
        self.iteration, self.t = iteration, 0
        self._clear()
        self.membership.begin()
        self._admit()

    def _admit(self) -> None:
        """Admit all waiting agents that want this iteration or an earlier one, and tell the others of this attempt."""
        for agent in self.membership.admit(self.iteration, self.attempt, self._now):
            if self.iteration <= self._rules.iterations:
                self._news.append((logging.INFO, f"agent {agent} takes part from iteration {self.iteration} on"))
            self._observe(agent, self.iteration, 0)
        for agent in sorted(self.membership.outside(self._now)):
            latest = self.membership.latest(agent)
            if latest.iteration > self.iteration and latest.attempt < self.attempt:
                self._observe(agent, self.iteration, 0)

    def _break_if_left(self) -> None:
        membership, active, outside = self.membership, self.membership.active, self.membership.outside(self._now)
        waits, left = self._rules.on_loss == "wait", membership.left & active
        if self._last and not waits and self._gathering.moves(self.iteration, self.attempt):
            left |= outside & membership.beyond(self.iteration, self.attempt)  # they wait for no step any more
        all_done = bool(membership.taking_part) and not active and not self._last
        most = 2 * len(left) > (0 if waits else len(active | left))
        if self.t is not None and (most or all_done or (outside and self._is_deserted)):
            self._break()

    @property
    def _is_deserted(self) -> bool:
        """Whether nobody acts in the running iteration, and another would be begun in its place."""
        return not self.membership.active and (self._running or self._gathering.moves(self.iteration, self.attempt))

    def _break(self) -> None:
        """The running iteration cannot be finished: it begins again, or a later one, when the agents are gathered."""
        self._news.append((logging.WARNING, f"iteration {self.iteration} is thrown away and begins again"))
        self.t = None
        self._gathering.begin()
        self._clear()
        self.membership.taking_part.clear()
        self.membership.left.clear()

    def _clear(self) -> None:
        self.actions.clear()
        self._half_done_at = math.inf

    def _observe(self, agent: int, iteration: int, t: int) -> None:
        if (address := self._addresses.get(agent)) is not None:
            self._outbox.append((address, agent, Observation(self.attempt, iteration, t, self._steps[agent])))
