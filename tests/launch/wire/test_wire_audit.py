"""Everything that agents say to each other: protocol headers, and log ratios of exactly itemsize x M x N bytes."""

from __future__ import annotations

import threading
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
import zmq

from matrpo.consensus.message import Kind
from matrpo.decentralized.agent import Agent
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.registry import task_spec
from matrpo.launch.processes.agent_process import AgentProcess
from matrpo.launch.processes.env_server import EnvironmentServer
from matrpo.launch.processes.supervisor import make_cluster
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.topology import make_graph

N, B, T = 4, 3, 5
M = B * T
ITERATIONS = 2
COUNTERS = {"sender": N, "incarnation": 2, "iteration": ITERATIONS + 1, "link": N, "version": 2}
"""Header fields that say who, where and when: smaller than these."""

ACTIVATIONS = {"k", "tip", "base"}


@dataclass
class Recording:
    """What was handed to zmq sockets, by the endpoint that the socket belongs to, and what local steps computed."""

    dtype: np.dtype[Any]
    run_id: str = ""
    most_activations: int = 0
    agents: set[str] = field(default_factory=set)
    messages: dict[str, list[list[bytes]]] = field(default_factory=lambda: defaultdict(list))
    ratios: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def between_agents(self) -> list[list[bytes]]:
        """The messages on links, without the first frame of those by which a router finds their receiver."""
        return [frames for endpoint in self.agents for frames in self.messages[endpoint]]


@pytest.fixture(params=[("float32", "admm"), ("float16", "averaging")], ids=lambda param: param[1])
def recording(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A whole run over real sockets, each process in a thread of this one."""
    wire_dtype, consensus = request.param
    record = Recording(np.dtype(wire_dtype))
    _spy(record, monkeypatch)
    config = Config(
        **{"agents": N, "num_envs": B, "rollout_length": T, "steps": ITERATIONS * M, "hidden_sizes": (8,)},
        **{"wire_dtype": wire_dtype, "consensus": consensus},
    )
    run = RunDirectory.create(tmp_path / "run", config, {})
    graph = make_graph("ring", N, 0)
    cluster = make_cluster(run, graph, tmp_path)
    record.run_id, record.agents = cluster.run_id, set(cluster.agents)
    record.most_activations = run.decentralized.admm_iterations
    server = EnvironmentServer(cluster, run, dict)
    agents = [AgentProcess(cluster, run, agent, task_spec(config.task, N)) for agent in range(N)]
    threads = [threading.Thread(target=worker.run) for worker in (server, *agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert run.latest_common_iteration() == ITERATIONS
    return record


def _spy(record: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    send, step = zmq.Socket.send, Agent.step
    unfinished: dict[int, list[bytes]] = {}

    def recorded_send(socket: Any, data: Any, flags: int = 0, **options: Any) -> Any:
        result = send(socket, data, flags, **options)
        unfinished.setdefault(id(socket), []).append(bytes(data))
        if not flags & zmq.SNDMORE:
            frames = unfinished.pop(id(socket))
            endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            record.messages[endpoint].append(frames[1:] if socket.type == zmq.ROUTER else frames)
        return result

    def recorded_step(agent: Agent, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        ratios = step(agent, term, shared)
        record.ratios[agent.agent_id].add(ratios.astype(record.dtype).tobytes())
        return ratios

    monkeypatch.setattr(zmq.Socket, "send", recorded_send)
    monkeypatch.setattr(Agent, "step", recorded_step)


def checked_fields(header: bytes, payload: list[bytes]) -> dict[str, Any]:
    """A header's fields without its checksum, which must be right."""
    fields: dict[str, Any] = msgpack.unpackb(header)
    check = fields.pop("crc32")
    assert check == zlib.crc32(b"".join([msgpack.packb(fields), *payload]))
    return fields


def test_only_headers_and_log_ratios_pass_between_agents(recording: Recording) -> None:
    messages = recording.between_agents()
    payloads = 0
    for header, *payload in messages:
        fields = checked_fields(header, payload)
        kind = fields.pop("kind")
        assert fields.pop("run") == recording.run_id
        if kind == "ratios":
            assert fields.pop("dtype") == recording.dtype.name
            assert fields.pop("shape") == [N, M]
            [data] = payload
            assert len(data) == recording.dtype.itemsize * M * N
            assert data in recording.ratios[fields["sender"]], "a local step of the sender, and nothing else"
            payloads += 1
        else:
            assert kind in {"probe", *get_args(Kind)}
            assert payload == []
        if kind == "probe":
            assert type(fields.pop("reply")) is bool
            assert 0 <= fields.pop("stamp") <= 1e6 * time.monotonic()
        else:
            assert type(fields.pop("answered")) is bool
            assert all(0 <= fields.pop(name) <= recording.most_activations for name in ACTIVATIONS)
        assert fields.keys() <= COUNTERS.keys()
        assert all(type(value) is int and 0 <= value < COUNTERS[name] for name, value in fields.items())
        assert len(header) < 256
    assert payloads >= 2 * ITERATIONS * recording.most_activations


def test_agents_tell_the_environment_nothing_but_their_actions(recording: Recording) -> None:
    [server] = recording.messages.keys() - recording.agents
    messages = [frames for frames in recording.messages[server] if frames]  # An empty one ends none, and goes nowhere.
    kinds = {msgpack.unpackb(frames[0])["kind"] for frames in messages}
    assert kinds - {"ping"} == {"hello", "action", "bye", "observation", "stop"}
    for header, *payload in messages:
        fields = checked_fields(header, payload)
        if fields["kind"] == "action":
            assert fields.keys() == {"version", "run", "kind", "sender", "attempt", "iteration", "t"}
            assert [len(data) for data in payload] == [4 * B]
        elif fields["kind"] == "hello":
            numbers = {"incarnation", "iteration", "attempt"}
            assert (fields.keys(), payload) == ({"version", "run", "kind", "sender", *numbers}, [])
        elif fields["kind"] == "bye":
            assert (fields.keys(), payload) == ({"version", "run", "kind", "sender"}, [])
