"""The environment server: it steps the shared environment in lock step with all agents that take part.

It sends each agent what `AgentStep` holds and gets that agent's actions; it never sees a policy, a value or a ratio.
Who takes part, what is answered, when a step is made and an iteration begins again is decided in
`matrpo/decentralized/lock_step/server.py`, which opens with the messages; here are its sockets, clock and files. That
machine is told of a hello, an action, a lost connection; it says what to send, and when to step.

What happens when an agent is lost is a setting: its actions are zeros from then on, or all wait for it, or the run
ends. It takes part again from the start of an iteration. A server that is itself restarted in a run begins new episodes
at the iteration that the agents want next; the iteration that broke off is thrown away.

A run may have several such servers, each with a share of the environments. They do not know of each other: each does
the above by itself, and the agents carry the news. The episodes of a server that was not restarted go on when it begins
again because another has. An agent that cannot reach one of the servers holds up the others until it can, or is lost to
them, too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import numpy as np

from matrpo.decentralized.lock_step.messages import Stop
from matrpo.decentralized.lock_step.rules import Rules
from matrpo.decentralized.lock_step.server import Server
from matrpo.envs.build import build_environment
from matrpo.envs.shards import take_share
from matrpo.envs.shared import AgentStep
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.heartbeat import Heartbeat
from matrpo.launch.processes.process import READY, RunAborted, StopRequested, Supervision, ignore_stops, run_supervised
from matrpo.launch.processes.process_faults import ProcessFaults, script_of
from matrpo.launch.wire.channels import ServerChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import WireError
from matrpo.launch.wire.limits import make_context
from matrpo.launch.wire.sockets import leave_open
from matrpo.launch.wire.watch import PROBE_EVERY
from matrpo.runs.metrics import environment_metrics
from matrpo.runs.process_id import ProcessId
from matrpo.runs.recorder import Recorder
from matrpo.runs.run_directory import RunDirectory

OnReady = Callable[[], dict[str, float]]

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0
"""Seconds between two log lines about agents that are waited for."""


class EnvironmentServer:
    """A server of one run. It continues from its newest checkpoint.

    Args:
        cluster: where the processes are.
        run: the run directory.
        on_ready: called once, when the first iteration begins; what it returns joins the first line of metrics.
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
        lines = directory.read_metrics()
        back = incarnation.returns and bool(lines)
        self._newest = run.newest_checkpoint(process)
        self._stream = self._attempt if back else run.episode_stream(self._newest, server)
        self._shared = build_environment(config, self._stream, server)
        if self._newest:
            run.check_checkpoint(process, self._newest, self._shared.spec)
        self._is_partial = config.env_servers > 1
        ended = lines[-1]["iteration"] if lines else 0
        self._machine = Server(_rules(run), self._first_steps(back), self._newest + 1, self._attempt, ended, back)
        self._recorder: Recorder | None = None
        self._substituted = 0
        self._seconds_step = 0.0
        self._faults = ProcessFaults(script_of(run, cluster.graph), process, directory, None)
        self._heartbeat = Heartbeat(directory)
        codec = EnvironmentCodec(cluster.run_id, self._shared.spec, config.envs_per_server, self._is_partial)
        self._context = make_context(0, run.num_agents, cluster.on_one_machine)
        self._channel = ServerChannel(cluster.endpoints[process], codec, self._context, cluster.security(process))

    def run(self, to_exit: bool = False) -> None:
        """Serve all iterations, then say goodbye. However the run ends, the last states are saved.

        Args:
            to_exit: the process ends with the run: its sockets are left to the system. See `leave_open`.

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
                self._channel.say_last(last_word, self._machine.addresses)
            leave_open(self._channel) if to_exit else self._close()
            self._shared.env.close()

    def _close(self) -> None:
        self._channel.close()
        self._context.term()

    def _first_steps(self, back: bool) -> list[AgentStep]:
        """The first observations: of the checkpoint's episodes, or of new ones if the run has gone on since."""
        if self._newest == 0:
            return self._shared.reset()
        arrays, _ = self._directory.load_checkpoint(self._newest)
        if back:
            self._shared.load_reward_scale(arrays)
            _LOG.warning("the server is back in a run that went on: new episodes begin")
            return self._shared.reset()
        return self._shared.resume(arrays)

    def _serve(self) -> None:
        """Make all iterations, each of T steps, and write its records at its end."""
        machine = self._machine
        self._serve_until(lambda: machine.t is not None)
        recorder = self._begin_record(machine.iteration)
        extra = self._on_ready()
        ended, used = time.perf_counter(), time.process_time()
        begin = ended
        while True:
            self._serve_until(lambda: machine.complete or machine.over)
            if machine.over:
                return
            iteration, absent = machine.iteration, len(machine.membership.absent)
            if machine.t == 0:
                begin, self._substituted, self._seconds_step = time.perf_counter(), 0, 0.0
            if self._step():
                now, used_now = time.perf_counter(), time.process_time()
                costs = {"seconds_step": self._seconds_step, "cpu_seconds": used_now - used}
                self._record(recorder, iteration, now - ended, now - begin, absent, costs | extra)
                ended, used, extra = now, used_now, {}

    def _begin_record(self, iteration: int) -> Recorder:
        """Discard the metrics and checkpoints that an earlier process of the server wrote of `iteration` and later."""
        self._directory.rewind(iteration - 1)
        self._recorder = Recorder(self._run, self._directory, self._shared.spec, iteration - 1)
        return self._recorder

    def _step(self) -> bool:
        """Step the environments; returns whether that has ended the iteration."""
        machine = self._machine
        acted = time.perf_counter()
        steps = self._shared.step(self._joint_action())
        self._seconds_step += time.perf_counter() - acted
        if self._is_partial and machine.t == self._config.rollout_length - 1:
            for step in steps:
                step.moments = self._shared.moments
        return machine.stepped(steps)

    def _joint_action(self) -> np.ndarray:
        """The joint action: every agent's actions, and the task's default ones of agents that take no part."""
        joint_action = self._shared.env.default_actions()
        for agent, action in self._machine.actions.items():
            joint_action[:, self._shared.spec.action_slices[agent]] = action
        self._substituted += len(self._machine.actions) < self._run.num_agents
        return joint_action

    def _record(
        self, recorder: Recorder, iteration: int, seconds: float, rollout: float, absent: int, more: dict[str, float]
    ) -> None:
        """Write the records of an iteration, before an agent can learn from it."""
        episodes = take_share(self._shared) if self._is_partial else self._shared.take_metrics()
        samples = self._config.rollout_length * self._config.envs_per_server
        metrics = environment_metrics(episodes, samples, seconds, rollout, absent, self._substituted)
        recorder.record(iteration, metrics | more, (self._shared.state_dict(), {"stream": self._stream}))

    def _serve_until(self, satisfied: Callable[[], bool]) -> None:
        """Handle messages until a condition holds, and log periodically which agents are waited for.

        Raises:
            RunAborted: an agent was lost, and the run is to end then.
        """
        machine, report_at = self._machine, time.monotonic() + _PATIENCE
        while True:
            machine.tick(time.monotonic())
            self._flush()
            if satisfied():
                return
            iteration = machine.label[0] if machine.label else 0
            self._faults.move(iteration, "rollout", 0)
            self._heartbeat(iteration)
            seconds = min(PROBE_EVERY, max(0.0, machine.next_event() - time.monotonic()))
            if self._channel.socket.poll(math.ceil(seconds * 1000)):
                for address, message in self._channel.receive():
                    machine.receive(address, message)
            for address in self._channel.gone(machine.addresses.values()):
                machine.lose(address)
            if time.monotonic() >= report_at:
                _LOG.info("%s, waiting for agents %s", machine.where, sorted(machine.waits_for))
                report_at = time.monotonic() + _PATIENCE

    def _flush(self) -> None:
        """Write down what has to last, then send what the lock step has to say."""
        machine = self._machine
        for level, line in machine.take_news():
            _LOG.log(level, "%s", line)
        for refused in machine.take_refused():
            self._channel.refusals.add(WireError(refused, "implausible"))
        if machine.end is not None:
            raise RunAborted(machine.end)
        if machine.attempt != self._attempt:
            self._attempt = self._directory.begin_incarnation(self._cluster.run_id, machine.attempt).number
        for address, agent, answer in machine.take_outbox():
            self._channel.send(address, agent, answer)


def _rules(run: RunDirectory) -> Rules:
    config = run.config
    return Rules(
        num_agents=run.num_agents,
        length=config.rollout_length,
        iterations=config.iterations,
        num_servers=config.env_servers,
        on_loss=config.on_agent_loss,
        patience=config.link_deadline,
        silence=config.agent_deadline,
    )


def serve(cluster: Cluster, on_ready: OnReady = dict, server: int = 0) -> None:
    """Run an environment server of a cluster to its end.

    Raises:
        ConfigError: the run directory does not fit the cluster file, or a checkpoint cannot be read.
        RunAborted: an agent was lost, and the run is to end then.
    """
    run = RunDirectory.open(cluster.config.parent, cluster.identity)
    with run.server(server).lock():
        EnvironmentServer(cluster, run, on_ready, server).run(to_exit=True)


def child_main(cluster: Cluster, process: ProcessId, supervision: Supervision) -> None:
    """Main function of an environment server as the launcher's child process."""

    def on_ready() -> dict[str, float]:
        supervision.report.send_bytes(READY)
        return {"seconds_startup": time.time() - supervision.launched_at}

    directory = RunDirectory.open(cluster.config.parent).directory(process)
    run_supervised(f"matrpo {process.name}", directory, supervision, lambda: serve(cluster, on_ready, process.number))
