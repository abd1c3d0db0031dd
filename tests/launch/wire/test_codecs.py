from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import struct
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matrpo.consensus.message import Kind, LinkMessage
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Ping, Stop
from matrpo.envs.shared import AgentStep
from matrpo.launch.wire import frames
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import MAX_FRAMES, MAX_HEADER_BYTES, WireError
from matrpo.launch.wire.link_codec import LinkCodec, Probe
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

SPEC = TaskSpec("made-up", ("a", "b", "c"), (3, 7, 2), (Discrete(5), Box(2, -1, 1), MultiDiscrete((3, 4))))
B, M = 4, 6
LINKS = LinkCodec("run", num_agents=3, num_links=2, shape=(3, M), dtype="float32")
ENVIRONMENT = EnvironmentCodec("run", SPEC, B)

numbers = st.integers(0, 2**53 - 1)


@st.composite
def link_messages(draw: st.DrawFn) -> LinkMessage:
    kind = draw(st.sampled_from(get_args(Kind)))
    u = draw(hnp.arrays(np.float32, (3, M), elements=st.floats(width=32))) if kind == "ratios" else None
    return LinkMessage(
        kind=kind,
        sender=draw(st.integers(0, 2)),
        incarnation=draw(numbers),
        iteration=draw(numbers),
        link=draw(st.integers(0, 1)),
        k=draw(numbers),
        tip=draw(numbers),
        base=draw(numbers),
        answered=draw(st.booleans()),
        u=u,
    )


@st.composite
def observations(draw: st.DrawFn) -> tuple[Observation, int]:
    agent = draw(st.integers(0, 2))
    space = SPEC.action_spaces[agent]
    floats = st.floats(width=32)

    def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        return draw(hnp.arrays(dtype, shape, elements=st.booleans() if dtype is np.bool_ else floats))

    size = SPEC.observation_sizes[agent]
    step = AgentStep(
        observation=array(B, size),
        reward=array(B),
        reward_scale=array(1),
        terminated=array(B, dtype=np.bool_),
        truncated=array(B, dtype=np.bool_),
        final_observation=array(B, size) if draw(st.booleans()) else None,
        joint_action=array(B, SPEC.joint_action_width),
        action_mask=None
        if isinstance(space, Box) or draw(st.booleans())
        else array(B, space.parameters, dtype=np.bool_),
        begins=array(B, dtype=np.bool_) if draw(st.booleans()) else None,
    )
    return Observation(draw(numbers), draw(numbers), draw(numbers), step), agent


def empty_step(moments: np.ndarray | None = None) -> AgentStep:
    return AgentStep(
        observation=np.zeros((B, 3), np.float32),
        reward=np.zeros(B, np.float32),
        reward_scale=np.ones(1, np.float32),
        terminated=np.zeros(B, bool),
        truncated=np.zeros(B, bool),
        final_observation=None,
        joint_action=np.zeros((B, 5), np.float32),
        action_mask=None,
        moments=moments,
    )


def assert_same(a: object, b: object) -> None:
    """Equal field by field, arrays bit by bit."""
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert a == b


def sent(frames: list[Any]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


@given(link_messages())
def test_link_messages_round_trip(message: LinkMessage) -> None:
    frames = sent(LINKS.encode(message))
    assert_same(LINKS.decode(frames), message)
    assert len(frames) == (2 if message.kind == "ratios" else 1)
    assert max(map(len, frames)) <= LINKS.max_bytes


def test_half_precision_halves_the_payload() -> None:
    codec = LinkCodec("run", 3, 2, (3, M), "float16")
    u = np.linspace(-1, 1, 3 * M, dtype=np.float16).reshape(3, M)
    frames = sent(codec.encode(LinkMessage("ratios", 0, 0, 0, 0, 1, u=u)))
    assert frames[1] == u.tobytes()
    with pytest.raises(WireError, match="dtype"):
        LINKS.decode(frames)


@given(st.integers(0, 2), numbers, st.booleans())
def test_probes_round_trip(sender: int, stamp: int, reply: bool) -> None:
    probe = Probe(sender, stamp, reply)
    assert LINKS.decode(sent(LINKS.encode_probe(probe))) == probe


def test_pings_round_trip() -> None:
    assert ENVIRONMENT.decode_at_agent(sent(ENVIRONMENT.encode(Ping())), 0) == Ping()


@given(observations())
def test_observations_round_trip(case: tuple[Observation, int]) -> None:
    observation, agent = case
    frames = sent(ENVIRONMENT.encode_observation(observation, agent))
    assert_same(ENVIRONMENT.decode_at_agent(frames, agent), observation)
    assert max(map(len, frames)) <= ENVIRONMENT.max_bytes


def test_observations_are_the_receivers_own_to_change() -> None:
    step = empty_step()
    received = ENVIRONMENT.decode_at_agent(sent(ENVIRONMENT.encode_observation(Observation(1, 1, 2, step), 0)), 0)
    assert isinstance(received, Observation)
    assert received.step.observation.flags.writeable


def test_one_of_several_servers_sends_the_moments_of_its_returns_and_a_single_one_may_not() -> None:
    partial = EnvironmentCodec("run", SPEC, B, partial=True)
    step = empty_step(moments=np.arange(3.0 * B).reshape(B, 3) / 7)
    frames = sent(partial.encode_observation(Observation(1, 1, 2, step), 0))
    received = partial.decode_at_agent(frames, 0)
    assert isinstance(received, Observation)
    assert received.step.moments is not None
    np.testing.assert_array_equal(received.step.moments, step.moments)
    assert max(map(len, frames)) <= partial.max_bytes
    with pytest.raises(WireError, match="arrays are"):
        ENVIRONMENT.decode_at_agent(frames, 0)
    without = sent(ENVIRONMENT.encode_observation(Observation(1, 1, 2, step), 0))
    assert len(without) == len(frames) - 1


@given(st.integers(0, 2), numbers, numbers)
def test_what_agents_say_to_the_server_round_trips(sender: int, iteration: int, t: int) -> None:
    action = np.arange(B * SPEC.action_spaces[sender].width, dtype=np.float32).reshape(B, -1) % 3
    for message in (Hello(sender, t, iteration), Bye(sender), Action(sender, t, iteration, t, action)):
        assert_same(ENVIRONMENT.decode_at_server(sent(ENVIRONMENT.encode(message))), message)


@pytest.mark.parametrize("finished", [True, False])
def test_stops_round_trip(finished: bool) -> None:
    assert ENVIRONMENT.decode_at_agent(sent(ENVIRONMENT.encode(Stop(finished))), 0) == Stop(finished)


@pytest.mark.parametrize("message", [Outdated(3), Outdated(2**53 - 1), Ping()])
def test_a_servers_other_words_round_trip(message: Outdated | Ping) -> None:
    assert ENVIRONMENT.decode_at_agent(sent(ENVIRONMENT.encode(message)), 0) == message


@pytest.mark.parametrize(
    ("sender", "value", "reason"),
    [
        *((sender, value, "is not finite") for sender in range(3) for value in (np.nan, np.inf, -np.inf)),
        *((0, value, f"is {value:g}, not of Discrete(5)") for value in (-1, 0.5, 5, 99, 1e19)),
        *((2, value, f"is {value:g}, not of MultiDiscrete(3, 4)") for value in (-1, 3, 2**31)),
        *((1, value, f"has a component of {abs(value):g}, beyond 1000") for value in (1001, -1e4, 1e19)),
    ],
)
def test_an_action_that_is_not_of_its_space_is_refused(sender: int, value: float, reason: str) -> None:
    action = np.zeros((B, SPEC.action_spaces[sender].width), np.float32)
    action[-1, 0] = value
    with pytest.raises(WireError) as caught:
        ENVIRONMENT.decode_at_server(sent(ENVIRONMENT.encode(Action(sender, 1, 0, 0, action))))
    assert str(caught.value) == f"agent {sender}'s action {reason}"


RATIOS = sent(LINKS.encode(LinkMessage("ratios", 1, 0, 3, 1, 5, 4, 2, True, np.ones((3, M), np.float32))))
BEAT = sent(LINKS.encode(LinkMessage("beat", 1, 0, 3, 1, 5)))


def changed(**values: Any) -> bytes:
    """The header of `RATIOS` with some values changed, or left out where they are None."""
    header = msgpack.unpackb(RATIOS[0]) | values
    packed: bytes = msgpack.packb({key: value for key, value in header.items() if value is not None})
    return packed


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "frames"),
        ([*RATIOS, b""], "frames"),
        (RATIOS[:1], "1 frames, expected 2"),
        ([*BEAT, b"x"], "2 frames, expected 1"),
        ([BEAT[0]] * (MAX_FRAMES + 1), "frames"),
        ([b"\xc4" + bytes(MAX_HEADER_BYTES), RATIOS[1]], "at most"),
        ([b"\xc1", RATIOS[1]], "not msgpack"),
        ([b"\x93\x01\x02\x03", RATIOS[1]], "not a map"),
        ([RATIOS[0] + b"\x00", RATIOS[1]], "not msgpack"),
        ([RATIOS[0], RATIOS[1][:-1]], "payload has 71 bytes, expected 72"),
        ([RATIOS[0], RATIOS[1] + b"\x00"], "payload has 73 bytes, expected 72"),
        ([changed(version=2), RATIOS[1]], "version is 2"),
        ([changed(version=None), RATIOS[1]], "no int named version"),
        ([changed(run="other"), RATIOS[1]], "another run"),
        ([changed(kind="gossip"), RATIOS[1]], "kind 'gossip'"),
        ([changed(kind=7), RATIOS[1]], "no str named kind"),
        ([changed(sender=3), RATIOS[1]], "sender 3"),
        ([changed(sender=-1), RATIOS[1]], "sender -1"),
        ([changed(sender=True), RATIOS[1]], "no int named sender"),
        ([changed(sender=1.0), RATIOS[1]], "no int named sender"),
        ([changed(link=2), RATIOS[1]], "link 2"),
        ([changed(k=2**60), RATIOS[1]], "header has k"),
        ([changed(answered=1), RATIOS[1]], "no bool named answered"),
        ([changed(dtype="float64"), RATIOS[1]], "dtype 'float64'"),
        ([changed(dtype="object"), RATIOS[1]], "dtype 'object'"),
        ([changed(shape=[M, 3]), RATIOS[1]], "shape"),
        ([changed(shape=[3, float(M)]), RATIOS[1]], "shape"),
        ([changed(shape=[3, M, 1]), RATIOS[1]], "shape"),
        ([changed(extra=1), RATIOS[1]], r"unknown keys \['extra'\]"),
        ([changed(u=b"x"), RATIOS[1]], "not msgpack"),
        ([changed(u=msgpack.ExtType(1, b"x")), RATIOS[1]], "not msgpack"),
    ],
)
def test_malformed_link_messages_are_refused_with_a_reason(frames: list[bytes], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        LINKS.decode(frames)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (["reward", "observation"], "arrays are"),
        (["observation", "reward", "reward_scale", "terminated", "truncated", "joint_action", "policy"], "arrays are"),
        (["observation", "reward", "reward_scale", "terminated", "truncated"], "arrays are"),
        (["observation", "reward", "reward_scale", "terminated", "truncated", "joint_action", 3], "bad arrays"),
    ],
)
def test_observations_with_other_arrays_are_refused(arrays: list[Any], reason: str) -> None:
    header = {"version": 1, "run": "run", "kind": "observation", "attempt": 1, "iteration": 1, "t": 0, "arrays": arrays}
    with pytest.raises(WireError, match=reason):
        ENVIRONMENT.decode_at_agent([msgpack.packb(header)], 0)


VALID = [
    RATIOS,
    BEAT,
    sent(LINKS.encode_probe(Probe(0, 1, False))),
    sent(ENVIRONMENT.encode(Hello(1, 1, 1))),
    sent(ENVIRONMENT.encode(Stop(True))),
    sent(ENVIRONMENT.encode(Action(1, 1, 2, 3, np.zeros((B, 2), np.float32)))),
]

header_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A valid message with bytes changed, cut off, put in, or frames moved; or a header with other values."""
    frames = list(draw(st.sampled_from(VALID)))
    if draw(st.booleans()):
        header = msgpack.unpackb(frames[0])
        header[draw(st.sampled_from([*header, "new"]))] = draw(header_values)
        frames[0] = msgpack.packb(header)
        return frames
    which = draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[which])
    at = draw(st.integers(0, len(frame)))
    frame[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    frames[which] = bytes(frame)
    return draw(st.permutations(frames))


def decode_everywhere(frames: list[bytes]) -> None:
    decoders = [LINKS.decode, ENVIRONMENT.decode_at_server]
    decoders += [lambda frames, agent=agent: ENVIRONMENT.decode_at_agent(frames, agent) for agent in range(3)]
    for decode in decoders:
        with contextlib.suppress(WireError):
            decode(frames)


@given(st.lists(st.binary(max_size=200), max_size=MAX_FRAMES + 2))
def test_no_bytes_raise_anything_but_a_wire_error(frames: list[bytes]) -> None:
    decode_everywhere(frames)


@given(mutated())
def test_no_mutation_raises_anything_but_a_wire_error(frames: list[bytes]) -> None:
    decode_everywhere(frames)


@given(st.dictionaries(header_values.filter(lambda v: not isinstance(v, list | dict)), header_values, max_size=6))
def test_no_header_raises_anything_but_a_wire_error(header: dict[Any, Any]) -> None:
    with contextlib.suppress(WireError):
        decode_everywhere([msgpack.packb(header)])


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        LINKS.decode([b"\x91" * MAX_HEADER_BYTES])


def test_the_example_of_the_format_is_what_is_sent() -> None:
    ratios = LinkMessage("ratios", 3, 1, 7, 2, 5, tip=4, base=3, u=np.zeros((12, 10_000), np.float32))
    header, payload = LinkCodec("9f86d081884c7d65", 12, 12, (12, 10_000), "float32").encode(ratios)
    values = msgpack.unpackb(header)
    assert len(payload) == 480_000
    described = ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())
    assert described in re.sub(r"\s+", " ", frames.__doc__ or "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_are_little_endian_on_the_wire(order: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    sent = frames.raw_bytes(array.astype(array.dtype.newbyteorder(order)))
    assert bytes(sent) == struct.pack("<6f", *range(6))
    received = frames.ArrayFormat(array.dtype, array.shape).unpack("u", sent)
    np.testing.assert_array_equal(received, array)
