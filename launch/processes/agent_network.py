"""An agent's network side: its links to neighbours and its channels to environment servers, served by one poll loop.

It only waits: what the servers say is taken from `client`, what the neighbours say goes to the agent's `Peer`.
"""

from __future__ import annotations

import logging
import math
import time

import zmq

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.decentralized.lock_step.client import REPEAT, Client
from matrpo.decentralized.lock_step.messages import Action
from matrpo.faults.gate import FaultGate
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.environment_channels import EnvironmentChannels, RunOver
from matrpo.launch.processes.heartbeat import Heartbeat
from matrpo.launch.processes.process_faults import ProcessFaults, script_of
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.limits import make_context
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.launch.wire.link_transport import LinkTransport, Lost
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.spaces import TaskSpec

_LOG = logging.getLogger(__name__)
_GOODBYES = 3


class AgentNetwork:
    """An agent's sockets, polled together: while it waits for one peer it goes on answering all others.

    Args:
        cluster: where the processes are.
        run: the run directory.
        agent: q.
        spec: the task's spaces.
        peer: the agent's side of the consensus.
        incarnation: how often this agent was started.

    Attributes:
        links: the sockets to the neighbours.
        client: the agent's side of the lock step with the environment servers.
        waited: seconds in which there was nothing to do but wait for others, so far.

    Raises:
        ConfigError: nothing can listen at the agent's endpoint, or its keys cannot be used.
    """

    def __init__(
        self, cluster: Cluster, run: RunDirectory, agent: int, spec: TaskSpec, peer: Peer, incarnation: int
    ) -> None:
        config, graph = run.config, cluster.graph
        self.waited = 0.0
        self._agent = agent
        self._servers = cluster.servers
        self._peer = peer
        self._leaving = False
        self._quarantines: dict[int, int] = {}
        self._where = (0, "rollout")
        self._heartbeat = Heartbeat(run.agent(agent))
        process, script = ProcessId.agent(agent), script_of(run, graph)
        messages = script.of_messages()
        gate = FaultGate(messages, agent, graph.neighbours(agent), config.seed) if messages else None
        self._faults = ProcessFaults(script, process, run.agent(agent), gate)
        security = cluster.security(process)
        neighbours = graph.neighbours(agent)
        dialled = sum(other > agent for other in neighbours)
        self._context = make_context(dialled + len(cluster.servers), len(neighbours) - dialled, cluster.on_one_machine)
        shape = config.exchange_shape(spec.num_agents)
        links = LinkCodec(cluster.run_id, spec.num_agents, len(graph.links), shape, config.wire_dtype)
        environment = EnvironmentCodec(cluster.run_id, spec, config.envs_per_server, config.env_servers > 1)
        self.links = LinkTransport(agent, graph, cluster.agents, links, self._context, security, gate)
        self.client = Client(agent, incarnation, len(cluster.servers))
        self._channels = EnvironmentChannels(self.client, agent, cluster.servers, environment, self._context, security)
        self._poller = zmq.Poller()
        for socket in (*self._channels.sockets, *self.links.sockets):
            self._poller.register(socket, zmq.POLLIN)

    def enter(self, iteration: int, phase: str) -> None:
        """Note that the agent begins a phase, `rollout` or `consensus`, which triggers faults of the fault script."""
        self._where = (iteration, phase)
        self._faults.move(*self._where, 0)

    def close(self) -> None:
        """Close all sockets."""
        self.links.close()
        self._channels.close()
        self._context.term()

    def join(self) -> None:
        """Wait until all environment servers have begun an iteration: see `Client.agreed`.

        Raises:
            StopRequested: the run ends early.
        """
        report_at, patience = time.monotonic() + REPEAT, REPEAT
        while not self.client.agreed():
            late = time.monotonic() >= report_at
            if late:
                absent = [self._servers[server] for server in self._channels.absent]
                reason = f"the environment server at {', '.join(absent)}" if absent else "the start of an iteration"
                _LOG.info("waiting for %s", reason)
                patience *= 2
                report_at = time.monotonic() + patience
            self.client.ask_to_begin(again=late)
            self._channels.send()
            self._pump(report_at)

    def meet_neighbours(self, seconds: float) -> None:
        """Wait until all neighbours are connected, or the timeout of so many seconds."""
        until = time.monotonic() + seconds
        while self.links.unreached and time.monotonic() < until:
            self._pump(until)

    def act(self, server: int, action: Action) -> None:
        """Send an action to a server, until it is answered."""
        self.client.act(server, action, time.monotonic())
        self._channels.send()

    def await_step(self) -> None:
        """Wait until a server has stepped, or the iteration is broken, sending actions again while unanswered.

        Raises:
            StopRequested: the run ends early.
        """
        while not (self.client.answered or self.client.broken()):
            self._pump(self.client.next_event())

    def agree(self) -> None:
        """Serve the consensus phase until it is over. A neighbour that is not connected at its start is lost.

        Raises:
            StopRequested: the run ends early.
        """
        for neighbour in self.links.unreached:
            self._peer.lose(neighbour, time.monotonic())
        self.send_links()
        while not self._peer.done:
            self._pump(math.inf)

    def say_goodbye(self) -> None:
        """Go on answering neighbours until the environment servers have heard from all agents that they are done."""
        self._leaving = True
        try:
            for _ in range(_GOODBYES):
                self.client.say_goodbye()
                self._channels.send()
                until = time.monotonic() + REPEAT
                while time.monotonic() < until:
                    self._pump(until)
        except RunOver:
            return
        _LOG.warning("the environment server does not answer a goodbye: finished without it")

    def _pump(self, until: float) -> None:
        """Poll all sockets once, until a deadline, and handle what arrived.

        Raises:
            StopRequested, RunOver, OutdatedError: see `EnvironmentChannels.exchange`.
        """
        self._faults.move(*self._where, 0 if self._peer.done else self._peer.activations)
        self._heartbeat(self._where[0])
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
            self.send_links()
        self._peer.tick(time.monotonic())
        self.send_links()
        for server in self._channels.exchange():
            self._note_loss(f"the environment server {server}" if server else "the environment server")

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

    def send_links(self) -> None:
        """Send the neighbours all messages in the outbox of the agent's side of the consensus."""
        for neighbour, message in self._peer.take_outbox():
            self.links.send(neighbour, message)
