"""An agent's process: rollout, update, and consensus with its neighbours in every iteration, without a coordinator.

When an agent returns: `supervisor.py` starts it again (`--restart`), or an engine does. It counts its incarnation up,
loads its newest checkpoint (`AgentProcess.__init__`), and says hello to the environment servers (`_join`). Those go on
meanwhile as `on_agent_loss` says, and let it take part from the start of an iteration (`lock_step/server.py`). If its
folder was lost, its count is behind what they know: they tell it, and it joins with a later one (`learn`). It forgets
metrics and episodes that are not the run's any more, sits out the iterations that it missed, and its links
begin from state 0 (`link.py`, "A restart").
"""

from __future__ import annotations

import dataclasses
import logging
import time

import torch

from matrpo.build import build_participant
from matrpo.decentralized.lock_step.messages import Action, Observation
from matrpo.envs.build import run_spec
from matrpo.envs.shards import join_steps
from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.agent_network import AgentNetwork
from matrpo.launch.processes.environment_channels import OutdatedError, RunOver
from matrpo.launch.processes.process import Supervision, ignore_stops, run_supervised
from matrpo.launch.wire.sockets import leave_open
from matrpo.networks.device import on_device
from matrpo.runs.heap import keep_free_memory, return_free_memory
from matrpo.runs.phase_clock import PhaseClock
from matrpo.runs.process_id import ProcessId
from matrpo.runs.recorder import Recorder
from matrpo.runs.run_directory import RunDirectory
from matrpo.spaces import TaskSpec, outside

_LOG = logging.getLogger(__name__)
_MEETING = 10.0
"""Timeout in seconds for neighbours to connect when a run begins: over TCP they retry every five."""


class AgentProcess:
    """Agent q, its links and its channel to the environment server. It continues from its newest checkpoint.

    Args:
        cluster: where the processes are.
        run: the run directory.
        agent: q.
        spec: the task's spaces.
        at_least: the least number that this start may have.

    Raises:
        ConfigError: its checkpoint does not fit the run, or its sockets cannot be made.
    """

    def __init__(self, cluster: Cluster, run: RunDirectory, agent: int, spec: TaskSpec, at_least: int = 1) -> None:
        config, directory = on_device(run.decentralized, alone=False), run.agent(agent)
        torch.set_num_threads(config.torch_threads)
        keep_free_memory()
        self._config = config
        self._run = run
        self._id = agent
        incarnation = directory.begin_incarnation(cluster.run_id, at_least)
        self._clock = PhaseClock(waited=lambda: self._network.waited, used=time.process_time)
        self._participant = build_participant(agent, cluster.graph, spec, config, self._clock, incarnation.number)
        process = ProcessId.agent(agent)
        self._newest = run.newest_checkpoint(process)
        if self._newest:
            run.check_checkpoint(process, self._newest, spec)
            self._participant.agent.load_state_dict(*directory.load_checkpoint(self._newest))
            _LOG.info("continuing from the checkpoint of iteration %d", self._newest)
        self._returns = incarnation.returns
        self._recorder: Recorder | None = None
        self._network = AgentNetwork(cluster, run, agent, spec, self._participant.peer, incarnation.number)

    def run(self, to_exit: bool = False) -> None:
        """Learn until the last iteration. However the run ends, the last states are saved.

        Args:
            to_exit: the process ends with the run: its sockets are left to the system. See `leave_open`.

        Raises:
            StopRequested: the run ends early.
            OutdatedError: a later start of this agent is known, and this one has not yet taken part.
            ConfigError: the same, and it has: another process has taken its place.
            StorageError: a file cannot be written.
        """
        try:
            starts = self._join()
            while starts[0].iteration <= self._config.iterations:
                starts = self._iterate(starts)
            self._network.say_goodbye()
        except RunOver:
            _LOG.warning("the run is over")
            self._save()
        except OutdatedError as later:
            if self._recorder is None:
                to_exit = False
                raise
            self._save()
            raise ConfigError(f"agent {self._id} was started elsewhere meanwhile, and goes on there: {later}") from None
        except BaseException:
            ignore_stops()
            self._save()
            raise
        finally:
            leave_open(self._network) if to_exit else self._network.close()

    def _save(self) -> None:
        if self._recorder:
            self._recorder.save()

    def _join(self) -> list[Observation]:
        """Wait until the servers admit this agent; returns the start of its first iteration, from each server."""
        network, wanted = self._network, self._newest + 1
        network.client.wanted = wanted
        network.join()
        starts = network.client.agreed()
        iteration = starts[0].iteration
        if iteration > wanted:
            _LOG.warning("iterations %d to %d were without this agent", wanted, iteration - 1)
        if iteration > wanted or self._returns:
            self._participant.agent.discard_rollout()
        directory = self._run.agent(self._id)
        directory.rewind(iteration - 1)
        self._recorder = Recorder(self._run, directory, self._participant.agent.spec, iteration - 1)
        if iteration > 1:
            self._sit_out(iteration - 1)
        network.meet_neighbours(_MEETING if iteration == wanted else self._config.link_resend)
        return starts

    def _iterate(self, starts: list[Observation]) -> list[Observation]:
        """One iteration from its first observations; returns those of the next, or of one that replaces it."""
        iteration = starts[0].iteration
        self._network.client.wanted = iteration
        self._network.enter(iteration, "rollout")
        with self._clock.phase("rollout"):
            last = self._roll_out(starts)
            if last is None:
                return self._begin_again(iteration)
        self._network.client.wanted = iteration + 1
        with self._clock.phase("prepare"):
            self._participant.prepare(join_steps([observation.step for observation in last]), iteration)
            return_free_memory()
        with self._clock.phase("consensus"):
            self._network.enter(iteration, "consensus")
            self._participant.begin(iteration, time.monotonic())
            self._network.agree()
        with self._clock.phase("finish"):
            learning = self._participant.finish()
            return_free_memory()
        self._record(iteration, learning)
        return [dataclasses.replace(observation, iteration=iteration + 1, t=0) for observation in last]

    def _roll_out(self, starts: list[Observation]) -> list[Observation] | None:
        """Act in each server's environments as soon as they have stepped; the last observations, None if it breaks."""
        config, network, news = self._config, self._network, dict(enumerate(starts))
        last: dict[int, Observation] = {}
        while True:
            for server, observation in sorted(news.items()):
                if observation.t == config.rollout_length:
                    last[server] = observation
                else:
                    network.act(server, self._choose(server, observation))
            if len(last) == len(starts):
                return [last[server] for server in range(len(starts))]
            network.await_step()
            if not (news := network.client.take_answers()):
                return None

    def _choose(self, server: int, observation: Observation) -> Action:
        """The agent's actions in a server's environments."""
        iteration, t = observation.iteration, observation.t
        action = self._participant.agent.act(observation.step, first=server * self._config.envs_per_server)
        if reason := outside(self._participant.agent.spec.action_spaces[self._id], action):
            raise FloatingPointError(f"the policy's action {reason} in iteration {iteration}, step {t}")
        return Action(self._id, observation.attempt, iteration, t, action)

    def _begin_again(self, iteration: int) -> list[Observation]:
        """Abandon an iteration that goes on without this agent, or not at all; the start of its replacement."""
        self._participant.agent.discard_rollout()
        self._network.join()
        starts = self._network.client.agreed()
        later = starts[0].iteration
        _LOG.warning("iteration %d is thrown away; the environment goes on with %d", iteration, later)
        if later > iteration:
            self._sit_out(later - 1)
        return starts

    def _sit_out(self, iteration: int) -> None:
        """Tell the neighbours that this agent takes no part in an iteration."""
        self._participant.peer.sit_out(iteration, time.monotonic())
        self._network.send_links()

    def _record(self, iteration: int, learning: dict[str, float]) -> None:
        assert self._recorder is not None
        links = self._network.links
        traffic = {neighbour: vars(counted) for neighbour, counted in links.traffic.items()}
        connections = {neighbour: connection.metrics() for neighbour, connection in links.connections().items()}
        metrics = self._participant.metrics(learning, traffic, connections, links.refusals.counts)
        self._recorder.record(iteration, metrics, self._participant.agent.state_dict())


def learn(cluster: Cluster, agent: int) -> None:
    """Run one agent of a cluster to its end.

    Raises:
        ConfigError: the run directory does not fit the cluster file, or a checkpoint cannot be read.
    """
    run = RunDirectory.open(cluster.config.parent, cluster.identity)
    spec = run_spec(run.config)
    at_least = 1
    with run.agent(agent).lock():
        while True:
            try:
                return AgentProcess(cluster, run, agent, spec, at_least).run(to_exit=True)
            except OutdatedError as later:  # once for each server that knows of a later one still
                _LOG.warning("%s: its folder was lost, or is another machine's; it joins as a later one", later)
                at_least = later.incarnation + 1


def child_main(cluster: Cluster, process: ProcessId, supervision: Supervision) -> None:
    """Main function of an agent as the launcher's child process."""
    directory = RunDirectory.open(cluster.config.parent).directory(process)
    run_supervised(f"matrpo {process.name}", directory, supervision, lambda: learn(cluster, process.number))
