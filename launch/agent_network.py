"""All that an agent says and hears: its links and its line to the environment server, whatever it is waiting for."""

from __future__ import annotations

import logging
import math
import time

import zmq

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.launch.beat import Beat
from matrpo.launch.cluster import Cluster
from matrpo.launch.fault_gate import FaultGate
from matrpo.launch.lines import AgentLine
from matrpo.launch.process import StopRequested
from matrpo.launch.process_faults import ProcessFaults, script_of
from matrpo.launch.transport import LinkTransport, Lost
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, LinkCodec, Observation, Stop
from matrpo.run_directory import RunDirectory
from matrpo.spaces import TaskSpec

_LOG = logging.getLogger(__name__)
_REPEAT = 5.0
"""Seconds after which an unanswered message to the environment server is said again."""

_RETRY = 0.05
"""Seconds after which what could not be sent is tried again."""

_GOODBYES = 3


class AgentNetwork:
    """An agent's sockets. While it waits for one thing it goes on answering everyone.

    Args:
        cluster: where the processes are.
        run: the run directory.
        agent: q.
        spec: the task's spaces.
        peer: the agent's side of the consensus.
        incarnation: how often this agent was started.

    Attributes:
        wanted: the iteration whose start the agent needs next; hellos say so.
        links: the sockets to the neighbours.
        waited: seconds in which there was nothing to do but wait for others, so far.

    Raises:
        ConfigError: nothing can listen at the agent's endpoint, or its keys cannot be used.
    """

    def __init__(
        self, cluster: Cluster, run: RunDirectory, agent: int, spec: TaskSpec, peer: Peer, incarnation: int
    ) -> None:
        config, graph = run.config, cluster.graph
        self.wanted = 0
        self.waited = 0.0
        self._agent = agent
        self._server = cluster.environment
        self._incarnation = incarnation
        self._peer = peer
        self._start: Observation | None = None
        self._leaving = False
        self._quarantines: dict[int, int] = {}
        self._where = (0, "rollout")
        self._beat = Beat(run.agent(agent))
        script = script_of(run.path, graph)
        messages = script.of_messages()
        gate = FaultGate(messages, agent, graph.neighbours(agent), config.seed) if messages else None
        self._faults = ProcessFaults(script, f"agent {agent}", run.agent(agent), gate)
        security = cluster.security(agent)
        self._context = zmq.Context()
        links = LinkCodec(cluster.run_id, spec.num_agents, len(graph.links), config.shared_samples, config.wire_dtype)
        environment = EnvironmentCodec(cluster.run_id, spec, config.num_envs)
        self.links = LinkTransport(agent, graph, cluster.endpoints, links, self._context, security, gate)
        self._line = AgentLine(agent, cluster.environment, environment, self._context, security)
        self._poller = zmq.Poller()
        for socket in (self._line.socket, self._line.monitor.socket, *self.links.sockets):
            self._poller.register(socket, zmq.POLLIN)

    def enter(self, iteration: int, phase: str) -> None:
        """The agent begins a phase, `rollout` or `consensus`: fault scripts go by that."""
        self._where = (iteration, phase)
        self._faults.move(*self._where, 0)

    def close(self) -> None:
        """Close all sockets; what was sent has a second to leave."""
        self.links.close()
        self._line.close()
        self._context.term()

    def join(self) -> Observation:
        """Wait for the start of an iteration.

        Raises:
            StopRequested: the run ends early.
        """
        report_at, patience = time.monotonic() + _REPEAT, _REPEAT
        while self._start is None:
            self._pump(report_at)
            if time.monotonic() >= report_at and self._start is None:
                there = self._line.monitor.connected
                reason = "the start of an iteration" if there else f"the environment server at {self._server}"
                _LOG.info("waiting for %s", reason)
                patience *= 2
                report_at = time.monotonic() + patience
                self._line.send(self._hello())
        return self._start

    def meet_neighbours(self, seconds: float) -> None:
        """Wait until all neighbours are connected, but not for ever."""
        until = time.monotonic() + seconds
        while self.links.unreached and time.monotonic() < until:
            self._pump(until)

    def ask(self, action: Action) -> Observation:
        """Act, and wait for the observation of the next step or, if the iteration is broken, of a newer start.

        Raises:
            StopRequested: the run ends early.
        """
        label = (action.server, action.iteration, action.t)
        say_at, said = 0.0, False
        while True:
            if self._start and (self._start.iteration, self._start.server) > (action.iteration, action.server):
                return self._start
            now = time.monotonic()
            if now >= say_at:
                if said:
                    self._line.send(self._hello())
                said = self._line.send(action)
                say_at = now + (_REPEAT if said or not self._line.monitor.connected else _RETRY)
            for observation in self._pump(say_at):
                heard = (observation.server, observation.iteration, observation.t)
                if heard == (*label[:2], action.t + 1):
                    return observation
                if heard == label:  # it was asked for by a hello: the server has not got the action
                    self._line.send(action)

    def agree(self) -> None:
        """Wait until the consensus that has begun is over. A neighbour that cannot be reached now is lost.

        Raises:
            StopRequested: the run ends early.
        """
        for neighbour in self.links.unreached:
            self._peer.lose(neighbour, time.monotonic())
        self._send_links()
        while not self._peer.done:
            self._pump(math.inf)

    def sit_out(self, iteration: int) -> None:
        """Tell the neighbours that this agent takes no part in an iteration."""
        self._peer.sit_out(iteration, time.monotonic())
        self._send_links()

    def say_goodbye(self) -> None:
        """Go on answering neighbours until the environment server has heard from all agents that they are done."""
        self._leaving = True
        try:
            for _ in range(_GOODBYES):
                self._line.send(Bye(self._agent))
                until = time.monotonic() + _REPEAT
                while time.monotonic() < until:
                    self._pump(until)
        except _RunOver:
            return
        _LOG.warning("the environment server does not answer a goodbye: finished without it")

    def _hello(self) -> Hello:
        return Hello(self._agent, self._incarnation, self.wanted)

    def _pump(self, until: float) -> list[Observation]:
        """Wait for messages, but not beyond a time; handle those of the links and return those of the server.

        Raises:
            StopRequested: the server says that the run ends early.
            _RunOver: the server says that all agents are done.
        """
        self._faults.move(*self._where, 0 if self._peer.done else self._peer.activations)
        self._beat(self._where[0])
        now = time.monotonic()
        event = self._peer.next_event()
        wake_at = min(until, math.inf if event is None else event, self.links.probe_at, now + 1.0)
        self._poller.poll(math.ceil(max(0.0, wake_at - now) * 1000))
        self.waited += time.monotonic() - now
        for news in self.links.receive():
            if isinstance(news, Lost):
                self._note_loss(f"the connection to agent {news.neighbour}")
                self._peer.lose(news.neighbour, time.monotonic())
            else:
                self._peer.receive(news, time.monotonic())
                self._note_quarantine(news)
            self._send_links()
        self._peer.tick(time.monotonic())
        self._send_links()
        for connected in self._line.monitor.changes():
            if connected:
                self._line.send(self._hello())
            else:
                self._note_loss("the environment server")
        return self._hear_server()

    def _hear_server(self) -> list[Observation]:
        observations = []
        for answer in self._line.receive():
            if isinstance(answer, Stop):
                raise _RunOver if answer.finished else StopRequested
            observations.append(answer)
            key = (answer.iteration, answer.server)
            if answer.t == 0 and (self._start is None or key > (self._start.iteration, self._start.server)):
                self._start = answer
        return observations

    def _note_quarantine(self, message: LinkMessage) -> None:
        count = self._peer.link_counters[message.link].quarantines
        if count > self._quarantines.get(message.link, 0):
            self._quarantines[message.link] = count
            _LOG.warning(
                "agent %d sent ratios that are not finite, too large or of the wrong shape: "
                "its link is skipped until the next iteration",
                message.sender,
            )

    def _note_loss(self, what: str) -> None:
        if not self._leaving:
            _LOG.warning("%s is lost", what)

    def _send_links(self) -> None:
        for neighbour, message in self._peer.take_outbox():
            self.links.send(neighbour, message)


class _RunOver(Exception):  # noqa: N818
    """All agents are done."""
