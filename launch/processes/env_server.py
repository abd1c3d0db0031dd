"""The environment server: it steps the shared environment in lock step with all agents that take part.

It sends each agent what `AgentStep` holds and gets that agent's actions; it never sees a policy, a value or a ratio.
The observation after the last step (T) of an iteration is the first of the next: tick (i, T) is tick (i+1, 0). To an
agent that was in iteration i it is sent as (i, T), to one that joins as (i+1, 0).

What happens when an agent's connection is lost is a setting: its actions are zeros from then on, or all wait for it, or
the run ends. It takes part again from the start of an iteration. A server that is itself restarted in a run begins new
episodes at the iteration that the agents want next; the iteration that broke off is thrown away.

A run may have several such servers, each with a share of the environments. They do not know of each other: each does
the above by itself, and the agents carry the news. An iteration that a server begins once more has a later *attempt*
number, and the hello of an agent says the latest that it has heard of. A server that learns so of a later attempt than
its own, or that an agent which takes part in its running iteration wants a later one, breaks off and begins again, at
the latest iteration and at least the latest attempt that its agents know of; `starts.py` has the agents' side.
The episodes of a server that was not restarted go on meanwhile. An iteration that one server has simulated to its end
when another dies in it is not begun again: all go on with the next. An agent that cannot reach one of the servers holds
up the others until it can, or is lost to them, too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import numpy as np

from matrpo.decentralized.lock_step.membership import Membership
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Stop
from matrpo.envs.build import build_environment
from matrpo.envs.shards import take_share
from matrpo.envs.shared import AgentStep
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.heartbeat import Heartbeat
from matrpo.launch.processes.process import READY, RunAborted, StopRequested, Supervision, ignore_stops, run_supervised
from matrpo.launch.processes.process_faults import ProcessFaults, script_of
from matrpo.launch.wire.channels import ServerChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.limits import make_context
from matrpo.launch.wire.watch import PROBE_EVERY
from matrpo.runs.metrics import environment_metrics
from matrpo.runs.process_id import ProcessId
from matrpo.runs.recorder import Recorder
from matrpo.runs.run_directory import RunDirectory

OnReady = Callable[[], dict[str, float]]

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0
"""Seconds between two log lines about agents that are waited for."""


class _Broken(Exception):  # noqa: N818
    """Raised when the running iteration cannot be finished: it begins again."""


class EnvironmentServer:
    """A server of one run. It continues from its newest checkpoint.

    Args:
        cluster: where the processes are.
        run: the run directory.
        on_ready: called once, when every agent has said hello; what it returns joins the first line of metrics.
        server: its number.

    Raises:
        ConfigError: a checkpoint cannot be read, or nothing can listen at the server's endpoint.
    """

    def __init__(self, cluster: Cluster, run: RunDirectory, on_ready: OnReady, server: int = 0) -> None:
        config, process = run.config, ProcessId.server(server)
        directory = run.directory(process)
        self._cluster = cluster
        self._run = run
        self._config = config
        self._on_ready = on_ready
        self._directory = directory
        incarnation = directory.begin_incarnation(cluster.run_id)
        self._attempt = incarnation.number
        self._returns = incarnation.returns and bool(directory.read_metrics())
        self._newest = max(directory.checkpoint_iterations(), default=0)
        self._stream = self._attempt if self._returns else run.episode_stream(self._newest, server)
        self._shared = build_environment(config, self._stream, server)
        self._is_partial = config.env_servers > 1
        self._steps = self._first_steps()
        self._recorder: Recorder | None = None
        self._membership = Membership(run.num_agents)
        self._label: tuple[int, int] | None = None
        self._actions: dict[int, np.ndarray] = {}
        self._broken = False
        self._substituted = 0
        self._seconds_step = 0.0
        self._finished: set[int] = set()
        self._faults = ProcessFaults(script_of(run, cluster.graph), process, directory, None)
        self._heartbeat = Heartbeat(directory)
        spec, num_envs = self._shared.spec, config.envs_per_server
        self._noop = spec.noop(num_envs)
        codec = EnvironmentCodec(cluster.run_id, spec, num_envs, self._is_partial)
        self._context = make_context(0, run.num_agents)
        self._channel = ServerChannel(cluster.endpoints[process], codec, self._context, cluster.security(process))

    def run(self) -> None:
        """Serve all iterations, then say goodbye. However the run ends, the last states are saved.

        Raises:
            StopRequested: the run ends early; the agents are told.
            RunAborted: an agent was lost, and the run is to end then.
            StorageError: a file cannot be written.
        """
        last_word: Stop | None = None
        try:
            self._serve()
            last_word = Stop(finished=True)
        except BaseException as error:
            ignore_stops()
            if isinstance(error, StopRequested | RunAborted):
                last_word = Stop(finished=False)
            if self._recorder:
                self._recorder.save()
            raise
        finally:
            if last_word:
                for agent in range(self._run.num_agents):
                    self._channel.send(agent, last_word)
            self._channel.close()
            self._context.term()
            self._shared.env.close()

    def _first_steps(self) -> list[AgentStep]:
        """The first observations: of the checkpoint's episodes, or of new ones if the run has gone on since."""
        if self._newest == 0:
            return self._shared.reset()
        arrays, _ = self._directory.load_checkpoint(self._newest)
        if self._returns:
            self._shared.load_reward_scale(arrays)
            _LOG.warning("the server is back in a run that went on: new episodes begin")
            return self._shared.reset()
        return self._shared.resume(arrays)

    def _serve(self) -> None:
        iteration = self._gather(self._newest + 1, self._returns)
        recorder = self._begin_record(iteration)
        extra = self._on_ready()
        ended, used = time.perf_counter(), time.process_time()
        while True:
            try:
                if iteration > self._config.iterations:
                    return self._see_off()
                rollout, absent = self._rollout(iteration)
            except _Broken:
                _LOG.warning("iteration %d is thrown away and begins again", iteration)
                iteration = self._gather(iteration, impatient=True, again=True)
                continue
            now, used_now = time.perf_counter(), time.process_time()
            costs = {"seconds_step": self._seconds_step, "cpu_seconds": used_now - used}
            episodes = take_share(self._shared) if self._is_partial else self._shared.take_metrics()
            samples = self._config.rollout_length * self._config.envs_per_server
            metrics = environment_metrics(episodes, samples, now - ended, rollout, absent, self._substituted)
            state = self._shared.state_dict(), {"stream": self._stream}
            recorder.record(iteration, metrics | costs | extra, state)
            ended, used, extra = now, used_now, {}
            iteration += 1

    def _see_off(self) -> None:
        """Wait until all agents have said goodbye."""
        self._serve_until(lambda: self._broken or not self._unfinished(), self._unfinished)
        if self._broken:
            raise _Broken

    def _begin_record(self, iteration: int) -> Recorder:
        """Discard the metrics and checkpoints that an earlier process of the server wrote of `iteration` and later."""
        self._directory.rewind(iteration - 1)
        self._recorder = Recorder(self._run, self._directory, self._shared.spec, iteration - 1)
        return self._recorder

    def _gather(self, iteration: int, impatient: bool, again: bool = False) -> int:
        """Wait for all agents, then start an iteration: `iteration`, or a later one that an agent wants.

        Args:
            iteration: the earliest.
            impatient: wait no longer than a link's deadline, then act on who is missing by the rule of the run.
            again: this life of the server has begun an iteration before.
        """
        config, membership = self._config, self._membership
        self._label = None
        self._actions.clear()
        membership.taking_part.clear()
        patience = config.link_deadline if impatient and config.on_agent_loss != "wait" else math.inf
        until = time.monotonic() + patience

        def complete() -> bool:
            return not membership.missing or (bool(membership.connected) and time.monotonic() >= until)

        self._serve_until(complete, lambda: membership.missing)
        self._broken = False
        if membership.missing:
            self._on_loss(f"agents {sorted(membership.missing)} did not come back")
            # One of them may be learning from an iteration that this server does not know of.
            lines = self._directory.read_metrics()
            iteration = max(iteration, lines[-1]["iteration"] + 1 if lines else 1)
        else:
            _LOG.info("all agents are here")
        iteration = max(iteration, membership.latest_wanted())
        known = membership.latest_attempt()
        if again or known > self._attempt:
            self._attempt = self._directory.begin_incarnation(self._cluster.run_id, known).number
        self._label = (iteration - 1, config.rollout_length)
        self._admit()
        return iteration

    def _rollout(self, iteration: int) -> tuple[float, int]:
        """Run the T steps of an iteration.

        Returns:
            The seconds from the first joint action to the last step, and how many agents were absent in the end.
        """
        begin, absent = time.perf_counter(), 0
        self._substituted, self._seconds_step = 0, 0.0
        for t in range(self._config.rollout_length):
            self._serve_until(self._decided, self._undecided)
            if self._broken:
                raise _Broken
            if t == 0:
                begin = time.perf_counter()
            absent = len(self._membership.absent)
            acted = time.perf_counter()
            self._steps = self._shared.step(self._joint_action())
            self._seconds_step += time.perf_counter() - acted
            self._actions.clear()
            self._label = (iteration, t + 1)
            if self._is_partial and not self._mid_rollout:
                for step in self._steps:
                    step.moments = self._shared.moments
            for agent in sorted(self._membership.taking_part):
                self._send_observation(agent, self._label)
        self._admit()
        return time.perf_counter() - begin, absent

    def _joint_action(self) -> np.ndarray:
        """The joint action: every agent's actions, zeros for agents that take no part."""
        joint_action = self._noop.copy()
        for agent, action in self._actions.items():
            joint_action[:, self._shared.spec.action_slices[agent]] = action
        self._substituted += len(self._actions) < self._run.num_agents
        return joint_action

    def _decided(self) -> bool:
        taking_part = self._membership.taking_part
        return self._broken or (bool(taking_part) and self._actions.keys() >= taking_part)

    def _undecided(self) -> set[int]:
        return self._membership.taking_part - self._actions.keys() or self._membership.missing

    def _unfinished(self) -> set[int]:
        if self._config.on_agent_loss == "wait":
            return set(range(self._run.num_agents)) - self._finished
        return self._membership.connected - self._finished

    def _serve_until(self, satisfied: Callable[[], bool], waiting_for: Callable[[], set[int]]) -> None:
        """Handle messages until a condition holds, and log periodically which agents are waited for."""
        report_at = time.monotonic() + _PATIENCE
        while not satisfied():
            iteration = self._label[0] if self._label else 0
            self._faults.move(iteration, "rollout", 0)
            self._heartbeat(iteration)
            if self._channel.socket.poll(int(PROBE_EVERY * 1000)):
                for message in self._channel.receive():
                    self._take_in(message)
            for agent in self._channel.lost():
                self._lose(agent)
            if time.monotonic() >= report_at and not satisfied():
                where = f"at step {self._label}" if self._label else "before the next iteration"
                _LOG.info("%s, waiting for agents %s", where, sorted(waiting_for()))
                report_at = time.monotonic() + _PATIENCE

    def _take_in(self, message: Hello | Action | Bye) -> None:
        agent = message.sender
        if isinstance(message, Bye):
            self._finished.add(agent)
        elif isinstance(message, Hello):
            if self._membership.hello(agent, message.incarnation, message.iteration, message.attempt):
                self._on_loss(f"agent {agent} was restarted")
                self._broken |= self._mid_rollout and self._config.on_agent_loss == "wait"
            self._broken |= self._is_behind(message)
            self._answer(agent)
        elif (
            self._label is not None
            and message.attempt == self._attempt
            and agent in self._membership.taking_part
            and self._tick(message.iteration, message.t) == self._tick(*self._label)
        ):
            self._actions[agent] = message.action

    def _is_behind(self, hello: Hello) -> bool:
        """Whether an agent's hello names a later iteration or attempt than the running one, which must break off."""
        if self._label is None:
            return False
        running = self._label[0] + (not self._mid_rollout)
        beyond = hello.sender in self._membership.taking_part and hello.iteration > running
        return beyond or hello.attempt > self._attempt

    @property
    def _mid_rollout(self) -> bool:
        return self._label is not None and self._label[1] < self._config.rollout_length

    def _answer(self, agent: int) -> None:
        """Tell an agent that said hello what it needs: the last observation again, or the start of an iteration."""
        if self._label is None:
            return
        iteration, _ = self._label
        if agent in self._membership.taking_part:
            if agent not in self._actions:
                over = not self._mid_rollout and self._membership.wanted(agent) > iteration
                self._send_observation(agent, (iteration + 1, 0) if over else self._label)
        elif not self._mid_rollout:
            self._admit()
        elif not self._membership.taking_part:
            self._broken = True

    def _admit(self) -> None:
        """Admit all waiting agents to the membership, from this start of an iteration on."""
        assert self._label is not None
        iteration = self._label[0] + 1
        for agent in self._membership.admit(iteration):
            if iteration <= self._config.iterations:
                _LOG.info("agent %d takes part from iteration %d on", agent, iteration)
            self._send_observation(agent, (iteration, 0))

    def _lose(self, agent: int) -> None:
        """Handle the loss of an agent's connection by the setting `on_agent_loss`."""
        self._membership.lose(agent, keep=self._config.on_agent_loss == "wait")
        if agent not in self._finished:
            self._on_loss(f"agent {agent} is lost")

    def _on_loss(self, what: str) -> None:
        rule = self._config.on_agent_loss
        if rule == "abort":
            raise RunAborted(f"{what}, and on_agent_loss is abort")
        where = f"at step {self._label}" if self._label else "before the next iteration"
        _LOG.warning("%s %s; %s", what, where, "all wait" if rule == "wait" else "actions of zeros instead")

    def _send_observation(self, agent: int, label: tuple[int, int]) -> None:
        self._channel.send(agent, Observation(self._attempt, *label, self._steps[agent]))

    def _tick(self, iteration: int, t: int) -> int:
        return iteration * self._config.rollout_length + t


def serve(cluster: Cluster, on_ready: OnReady = dict, server: int = 0) -> None:
    """Run an environment server of a cluster to its end.

    Raises:
        ConfigError: the run directory does not fit the cluster file, or a checkpoint cannot be read.
        RunAborted: an agent was lost, and the run is to end then.
    """
    EnvironmentServer(cluster, RunDirectory.open(cluster.config.parent), on_ready, server).run()


def child_main(cluster: Cluster, process: ProcessId, supervision: Supervision) -> None:
    """Main function of an environment server as the launcher's child process."""

    def on_ready() -> dict[str, float]:
        supervision.report.send_bytes(READY)
        return {"seconds_startup": time.time() - supervision.launched_at}

    directory = RunDirectory.open(cluster.config.parent).directory(process)
    run_supervised(f"matrpo {process.name}", directory, supervision, lambda: serve(cluster, on_ready, process.number))
