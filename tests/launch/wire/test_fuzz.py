"""Hostile frames through every decoder, and what passes on into two agents: thousands, or a million under `slow`."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
import zlib
from collections import Counter
from random import Random
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest

from matrpo.consensus.link import Link
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Stop
from matrpo.envs.shared import AgentStep
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import MAX_FRAMES, MAX_HEADER_BYTES, WireError
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.spaces import Box, Discrete, TaskSpec
from matrpo.topology.graph import CommunicationGraph

SPEC = TaskSpec("made-up", ("a", "b", "c"), (3, 7, 2), (Discrete(5), Box(2, -1, 1), Discrete(3)))
B, M = 4, 6
SHAPE = (3, M)
GRAPH = CommunicationGraph(3, ((0, 1), (1, 2)), "line")
AGENT = 1
LINKS = LinkCodec("run", num_agents=3, num_links=2, shape=(3, M), dtype="float32")
ENVIRONMENT = EnvironmentCodec("run", SPEC, B)

KINDS = ("ratios", "ratios", "ratios", "ratios", "ask", "beat", "over", "busy")
ODD_VALUES = (None, True, -1, 0, 1, 2, 255, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 0.5, float("nan"), "", "x" * 70)
CONTAINERS = ([], {}, [1, 2], [3, M], [[3], [M]], {"kind": "ratios"}, {1: 2}, b"", b"raw", msgpack.ExtType(5, b"x"))
BRANCHES = (b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x92\xc0", b"\xdd\x00\x00\x00\x02", b"\xdf\xff\xff\xff\xff")


def filled(cls: type, **given: Any) -> Any:
    """A message of this class whose other fields are all 1."""
    return cls(**{field.name: given.get(field.name, 1) for field in dataclasses.fields(cls)})


def valid_messages() -> list[list[bytes]]:
    step = AgentStep(
        observation=np.ones((B, 7), np.float32),
        reward=np.ones(B, np.float32),
        reward_scale=np.ones(1, np.float32),
        terminated=np.zeros(B, np.bool_),
        truncated=np.ones(B, np.bool_),
        final_observation=None,
        joint_action=np.ones((B, SPEC.joint_action_width), np.float32),
        action_mask=None,
    )
    ratios = LinkMessage("ratios", 0, 1, 2, 0, 3, 2, 1, True, np.ones(SHAPE, np.float32))
    messages = [
        LINKS.encode(ratios),
        *(LINKS.encode(LinkMessage(kind, 2, 0, 1, 1, 4)) for kind in ("ask", "beat", "over", "busy")),
        ENVIRONMENT.encode(filled(Hello)),
        ENVIRONMENT.encode(filled(Bye)),
        ENVIRONMENT.encode(Stop(True)),
        ENVIRONMENT.encode(filled(Action, action=np.ones((B, 2), np.float32))),
        ENVIRONMENT.encode_observation(filled(Observation, step=step), AGENT),
    ]
    return [[bytes(frame) for frame in frames] for frames in messages]


VALID = valid_messages()


def sealed(header: dict[Any, Any], payloads: list[bytes]) -> list[bytes]:
    """The frames with a checksum that is right, as a sender of nonsense would make it."""
    header = {name: value for name, value in header.items() if name != "crc32"}
    checksum = zlib.crc32(msgpack.packb(header))
    for payload in payloads:
        checksum = zlib.crc32(payload, checksum)
    return [msgpack.packb({**header, "crc32": checksum}), *payloads]


class Frames:
    """Draws messages that are random, truncated, flipped, too large, nested, of odd values, or just misplaced."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._ways = (self.random, self.truncated, self.flipped, self.oversized, self.nested, self.odd)

    def draw(self) -> list[bytes]:
        return self._rng.choice(self._ways)()

    def random(self) -> list[bytes]:
        rng = self._rng
        return [rng.randbytes(rng.randrange(80)) for _ in range(rng.randrange(4))]

    def truncated(self) -> list[bytes]:
        frames, which = self._valid()
        frames[which] = frames[which][: self._rng.randrange(len(frames[which]) + 1)]
        return frames if self._rng.random() < 0.8 else frames[:which]

    def flipped(self) -> list[bytes]:
        frames, which = self._valid()
        frame = bytearray(frames[which])
        for _ in range(self._rng.randint(1, 3)):
            frame[self._rng.randrange(len(frame))] ^= 1 << self._rng.randrange(8)
        frames[which] = bytes(frame)
        if which and self._rng.random() < 0.5:
            return sealed(msgpack.unpackb(frames[0]), frames[1:])
        return frames

    def oversized(self) -> list[bytes]:
        frames, which = self._valid()
        if self._rng.random() < 0.3:
            return frames * self._rng.randint(2, 2 * MAX_FRAMES)
        length = self._rng.choice((1, 8, MAX_HEADER_BYTES, 1 << 16))
        frames[which] += self._rng.choice((b"\x00", b"\xc0", b"\xff")) * length
        return frames

    def nested(self) -> list[bytes]:
        frames, _ = self._valid()
        tree = self._rng.choice(BRANCHES) * self._rng.choice((1, 10, 500, MAX_HEADER_BYTES))
        tree += self._rng.choice((b"", b"\xc0"))
        start = self._rng.choice((b"", b"\x81\xa4kind", frames[0][: self._rng.randrange(len(frames[0]))]))
        return [(start + tree)[: self._rng.choice((MAX_HEADER_BYTES, 2 * MAX_HEADER_BYTES))], *frames[1:]]

    def odd(self) -> list[bytes]:
        frames, _ = self._valid()
        header = msgpack.unpackb(frames[0])
        name = self._rng.choice((*header, "new"))
        header[name] = self._rng.choice(self._rng.choice((ODD_VALUES, CONTAINERS)))
        if self._rng.random() < 0.2:
            del header[self._rng.choice(tuple(header))]
        return sealed(header, frames[1:]) if self._rng.random() < 0.8 else [msgpack.packb(header), *frames[1:]]

    def _valid(self) -> tuple[list[bytes], int]:
        frames = list(self._rng.choice(VALID))
        return frames, self._rng.randrange(len(frames))


class Victim:
    """An agent with two neighbours that say anything: mostly what fits what it does, else anything well formed."""

    def __init__(self, schedule: str, rng: Random) -> None:
        self._rng = rng
        self._consensus = GraphConsensusSettings(beta=0.5, admm_iterations=8, schedule=schedule)
        self.now = 0.0
        self.iteration = -1
        self.commits = 0
        self._start()

    def _start(self) -> None:
        """A new process."""
        connections = ConnectionSettings(link_deadline=2.0, link_resend=0.5)
        self.peer = Peer(AGENT, GRAPH, 1, self._consensus, connections)
        self._incarnations = [0, 0]
        self._begin()

    def _begin(self) -> None:
        self.iteration += 1
        self.peer.begin(self.iteration, lambda pull: np.tanh(pull + np.float32(0.1)), SHAPE, self.now)

    def draw(self) -> list[bytes]:
        """A well-formed message of a neighbour's."""
        rng = self._rng
        link = rng.randrange(2)
        end = self.peer.links[link]
        if rng.random() < 0.0005:
            self._incarnations[link] += 1
        incarnation = max(0, self._incarnations[link] - (rng.random() < 0.05))
        iteration = max(0, self.iteration + rng.choice((-1, 0, 0, 0, 0, 0, 0, 1)))
        k = max(0, end.k + rng.choice((-1, 0, 0, 0, 1, 1, 2)))
        kind = rng.choice(KINDS)
        tip, base, u = 0, 0, None
        if kind == "ratios":
            tip, base = rng.choice(((0, 0), (end.tip.number, end.base.number), (k - 1, k // 2), (k, k)))
            tip, base = max(0, tip), max(0, base)
            scale = rng.choice((0.1, 6e4) if rng.random() < 0.99 else (1e6, float("nan"), float("inf")))
            u = np.full(SHAPE, scale, np.float32)
        sender = end.neighbour if rng.random() < 0.98 else rng.randrange(3)
        answered = rng.random() < 0.5
        message = LinkMessage(kind, sender, incarnation, iteration, link, k, tip, base, answered, u)
        return [bytes(frame) for frame in LINKS.encode(message)]

    def receive(self, message: LinkMessage) -> None:
        self.now += 0.02
        self.peer.receive(message, self.now)
        event = self.peer.next_event()
        if event is not None and event <= self.now:
            self.peer.tick(self.now)
        assert len(self.peer.take_outbox()) < 40
        if message.incarnation > max(self._incarnations) or message.iteration > self.iteration + 1:
            # To its links, this neighbour's honest messages would be old ones from now on.
            self.commits += self.peer.counters.commits
            self._start()
        elif self.peer.done:
            self._begin()

    def check(self) -> None:
        self.peer.take_outbox()
        for link in self.peer.links.values():
            assert np.isfinite(link.tip.y).all()
            assert np.isfinite(link.tip.ubar).all()
            assert sum(isinstance(value, LinkMessage) for value in vars(link).values()) <= 3
            assert not any(value for value in vars(link).values() if isinstance(value, list | dict | set))


class Fuzz:
    """Drives frames through the decoders and on into the agents."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._frames = Frames(self._rng)
        self.victims = [Victim(schedule, self._rng) for schedule in ("seeded", "poisson")]
        self.outcomes: Counter[str] = Counter()

    def run(self, count: int) -> None:
        for _ in range(count):
            victim = self._rng.choice(self.victims)
            frames = victim.draw() if self._rng.random() < 0.4 else self._frames.draw()
            message = self._decode(LINKS.decode, frames)
            self._decode(ENVIRONMENT.decode_at_server, frames)
            self._decode(lambda frames: ENVIRONMENT.decode_at_agent(frames, AGENT), frames)
            if isinstance(message, LinkMessage):
                victim.receive(message)
        for victim in self.victims:
            victim.check()

    def _decode(self, decode: Any, frames: list[bytes]) -> object:
        try:
            message = decode(frames)
        except WireError as error:
            self.outcomes["refused" if "\n" not in str(error) else "refused in several lines"] += 1
            return None
        self.outcomes[type(message).__name__] += 1
        return message


def commits(fuzz: Fuzz) -> int:
    return sum(victim.commits + victim.peer.counters.commits for victim in fuzz.victims)


def test_hostile_frames_raise_nothing_but_wire_errors_and_keep_no_memory() -> None:
    fuzz = Fuzz(0)
    fuzz.run(12_000)
    gc.collect()
    tracemalloc.start()
    try:
        fuzz.run(2_000)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        fuzz.run(6_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 30_000
    assert commits(fuzz) > 300
    assert min(victim.iteration for victim in fuzz.victims) > 20
    assert "refused in several lines" not in fuzz.outcomes
    names = {"refused", "LinkMessage", "Hello", "Bye", "Action", "Observation", "Stop"}
    assert all(fuzz.outcomes[name] for name in names), fuzz.outcomes


@pytest.mark.parametrize("branch", [b"\x91", b"\x81\xa1a"])
def test_nesting_of_any_depth_is_a_wire_error(branch: bytes) -> None:
    decoders = [LINKS.decode, ENVIRONMENT.decode_at_server, lambda frames: ENVIRONMENT.decode_at_agent(frames, AGENT)]
    for depth in range(MAX_HEADER_BYTES // len(branch) - 6):
        for decode in decoders:
            with pytest.raises(WireError):
                decode([b"\x81\xa4kind" + branch * depth + b"\xc0"])


@pytest.mark.slow
def test_a_million_hostile_frames() -> None:
    process = psutil.Process()
    fuzz = Fuzz(1)
    fuzz.run(100_000)
    gc.collect()
    before = process.memory_info().rss
    fuzz.run(900_000)
    gc.collect()
    grown = process.memory_info().rss - before
    print(f"{fuzz.outcomes}, {commits(fuzz)} commits, {grown / 1e6:.1f} MB more")
    assert commits(fuzz) > 15_000
    assert grown < 4e6


def test_a_link_is_what_the_fuzzer_looks_into() -> None:
    """Links keep their messages in attributes, where `Victim.check` finds them."""
    link = Victim("seeded", Random(0)).peer.links[0]
    assert isinstance(link, Link)
    assert any(isinstance(value, LinkMessage) for value in vars(link).values())
