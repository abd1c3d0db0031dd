"""An agent's side of the lock step with all environment servers: a state machine without sockets and clocks.

**The intuition.** Each server runs the iterations by itself, but an agent's rollout needs all of them, so it acts only
on starts of one iteration and one attempt from all servers (`starts.py`). It asks until it is answered: whatever is
lost, an agent's hello and its action come again::

    not begun      hello to every server that is behind what the agent wants, and again when that stays so
    acting         an action to each server, again with a hello after `REPEAT` without an observation of the next step
    broken         a server has started something later: what it was asked is dropped, hello to those that are behind
    outdated       a server has seen a later incarnation of this agent, or this one act, which it has not: its folder
                   was lost. It joins as a later one still, if it has not taken part yet, and ends if it has, for
                   another process has taken its place
"""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Stop
from matrpo.decentralized.lock_step.starts import Starts

REPEAT = 5.0
"""Seconds after which what was not answered is sent again."""

RETRY = 0.05
"""Seconds after which what could not be sent, though there is a connection, is tried again."""


@dataclass
class _Question:
    """An action that is sent again until its server answers with the next observation.

    Attributes:
        action: the action.
        said: whether it was sent.
        times: how often it was sent.
        say_at: when it is due to be sent, again or at all.
    """

    action: Action
    said: bool = False
    times: int = 0
    say_at: float = 0.0


class Client:
    """An agent's side of the lock step. Times are seconds of one monotonic clock.

    Args:
        agent: its id.
        incarnation: how often it was started.
        num_servers: S.

    Attributes:
        wanted: the earliest iteration that the agent can act in.
        answered: the observations that answered actions and were not taken yet, by server.
        over: every server has said that all agents are done, or one has, and the agent still needs it.
        stopped: a server has said that the run ends early.
        outdated: the incarnation that a server knows of, if this one is no later.
    """

    def __init__(self, agent: int, incarnation: int, num_servers: int) -> None:
        self.wanted = 0
        self.answered: dict[int, Observation] = {}
        self.over = False
        self.stopped = False
        self.outdated: int | None = None
        self._agent = agent
        self._incarnation = incarnation
        self._starts = Starts(num_servers)
        self._num_servers = num_servers
        self._said = (0, 0)
        self._questions: dict[int, _Question] = {}
        self._finished: set[int] = set()
        self._leaves = False
        self._has_acted = False
        self._outbox: list[tuple[int, Hello | Action | Bye]] = []

    def take_outbox(self) -> list[tuple[int, Hello | Action | Bye]]:
        """The messages to send, and to which server."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_event(self) -> float:
        """The time of the next retransmission."""
        return min((question.say_at for question in self._questions.values()), default=float("inf"))

    def agreed(self) -> list[Observation]:
        """The start of an iteration from each server, as soon as all have begun the same attempt at it; none before."""
        return [] if self._finished else self._starts.agreed(self.wanted)

    def ask_to_begin(self, again: bool) -> None:
        """Say hello to the servers that are behind, for each later start that the agent hears of, or to all `again`.

        One that is not behind may have lost the agent since. If one is done, there will be no start.
        """
        if self._finished:
            self.say_goodbye()
            self.over = True
            return
        target = self._starts.target(self.wanted)
        if again or target > self._said:
            for server in range(self._num_servers) if again else self._starts.behind(self.wanted):
                self.hello(server)
        self._said = target

    def act(self, server: int, action: Action, now: float) -> None:
        """Send an action until it is answered."""
        self._has_acted = True
        self._questions[server] = _Question(action)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Send the actions that are due, for the first time, or again with a hello to all servers.

        One that has answered its action may have lost the agent since, and what that said then.
        """
        due = [(server, question) for server, question in self._questions.items() if now >= question.say_at]
        if any(question.said for _, question in due):
            for server in range(self._num_servers):
                self.hello(server)
        for server, question in due:
            question.said, question.say_at = True, now + REPEAT
            question.times += 1
            self._outbox.append((server, question.action))

    def not_sent(self, server: int, message: Hello | Action | Bye, connected: bool, now: float) -> None:
        """A message of the outbox could not be sent: an action is tried again, at once if there is a connection."""
        question = self._questions.get(server)
        if question and message is question.action:
            question.said = False
            question.say_at = now + (RETRY if connected else REPEAT)

    def take_answers(self) -> dict[int, Observation]:
        """The observations that answered actions since the last call, by server."""
        answers, self.answered = self.answered, {}
        return answers

    def broken(self) -> bool:
        """Whether the iteration of the unanswered actions cannot be finished; if so, they are dropped.

        A server that is done answers none, and of another that is silent then, the same is likely.
        """
        actions = [question.action for question in self._questions.values()]
        broken = any(self._starts.outdate(action.iteration, action.attempt) for action in actions)
        if self._finished:
            broken |= any(server in self._finished or asked.times > 1 for server, asked in self._questions.items())
        if broken:
            self._questions.clear()
        return broken

    def hello(self, server: int) -> None:
        """Say hello to a server, also when it has just connected, and goodbye if it is that far."""
        self._outbox.append((server, Hello(self._agent, self._incarnation, *self._starts.target(self.wanted))))
        if self._leaves:
            self._outbox.append((server, Bye(self._agent)))

    def say_goodbye(self) -> None:
        """Tell all servers that the agent has finished, until they hang up."""
        self._leaves = True
        for server in range(self._num_servers):
            self.hello(server)

    def receive(self, server: int, message: Observation | Outdated | Stop) -> None:
        """Handle a server's message."""
        if isinstance(message, Outdated):
            if message.incarnation > self._incarnation:
                self.outdated = message.incarnation
        elif isinstance(message, Observation) and message.t > 0 and not self._has_acted:
            self.outdated = self._incarnation
        elif isinstance(message, Stop):
            self._end(server, message)
        else:
            if message.t == 0:
                self._starts.hear(server, message)
                if message.attempt > self._said[1]:  # the others must hear of it, whatever the agent does meanwhile
                    self.ask_to_begin(again=False)
            if self._answers(server, message):
                self.answered[server] = message

    def _answers(self, server: int, heard: Observation) -> bool:
        question = self._questions.get(server)
        if question is None:
            return False
        action = question.action
        if (heard.attempt, heard.iteration) != (action.attempt, action.iteration):
            return False
        if heard.t == action.t:  # it was asked for by a hello: the server has not got the action
            self._outbox.append((server, action))
        if heard.t != action.t + 1:
            return False
        del self._questions[server]
        return True

    def _end(self, server: int, word: Stop) -> None:
        self.stopped |= not word.finished
        self._finished.add(server)
        self.over |= len(self._finished) == self._num_servers
