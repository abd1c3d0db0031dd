"""The wire format: multipart messages `[msgpack header, raw array bytes, ...]`, unpacked strictly.

A header is a msgpack map with exactly the keys of its kind; every value has one type and one range, every array
the one dtype and shape that the run's settings imply. Whatever else arrives is a `WireError`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgpack  # type: ignore[import-untyped]
import numpy as np

from matrpo.consensus.message import Kind, LinkMessage
from matrpo.envs.shared import AgentStep
from matrpo.spaces import Discrete, TaskSpec

VERSION = 1
MAX_HEADER_BYTES = 2048
MAX_FRAMES = 1 + len(dataclasses.fields(AgentStep))

_LARGEST = 2**53
_CHECK = "crc32"
_RATIOS = "ratios"
_PROBE = "probe"
_LINK_KINDS = get_args(Kind)

Frames = Sequence[bytes | memoryview]


class WireError(ValueError):
    """A message that is not of this format, or not of this run.

    Args:
        text: what is wrong, in one line.
        reason: the same in a word or two, out of few, to count by.
    """

    def __init__(self, text: str, reason: str = "malformed") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Probe:
    """Asks the other end of a link to send this back as a reply: is it there, and how far away?

    The first one tells an end that was dialled where to answer. `stamp` is the asker's clock in microseconds.
    """

    sender: int
    stamp: int
    reply: bool


@dataclass(frozen=True)
class Hello:
    """An agent says where it is and in which iteration it can act; `attempt` is the latest that it has been told of."""

    sender: int
    incarnation: int
    iteration: int
    attempt: int = 0


@dataclass(frozen=True)
class Action:
    """An agent's action (B, w) at step t of an iteration, in this attempt at it."""

    sender: int
    attempt: int
    iteration: int
    t: int
    action: np.ndarray


@dataclass(frozen=True)
class Bye:
    """An agent has finished its last iteration."""

    sender: int


@dataclass(frozen=True)
class Observation:
    """What an agent sees after t steps of an iteration, in this attempt at it."""

    attempt: int
    iteration: int
    t: int
    step: AgentStep


@dataclass(frozen=True)
class Stop:
    """The environment server says that the run is over."""

    finished: bool


@dataclass(frozen=True)
class Ping:
    """The environment server looks whether a connection is still there. No answer is due."""


@dataclass(frozen=True)
class _Array:
    """What an array on the wire must be."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def unpack(self, name: str, frame: bytes | memoryview) -> np.ndarray:
        expected = self.dtype.itemsize * int(np.prod(self.shape))
        if len(frame) != expected:
            raise WireError(f"{name} has {len(frame)} bytes, expected {expected}")
        array = np.frombuffer(frame, self.dtype).reshape(self.shape)
        if self.dtype.kind == "b" and np.frombuffer(frame, np.uint8).max(initial=0) > 1:
            raise WireError(f"{name} holds bytes that are not booleans")
        return array


class LinkCodec:
    """Messages between neighbours.

    Args:
        run_id: of the run; messages of another are refused.
        num_agents, num_links: the graph's sizes.
        samples: M.
        dtype: of log ratios on the wire, `float32` or `float16`.
    """

    def __init__(self, run_id: str, num_agents: int, num_links: int, samples: int, dtype: str) -> None:
        self._run_id = run_id
        self._array = _Array(np.dtype(dtype), (num_agents, samples))
        self._limits = {"sender": num_agents, "link": num_links} | dict.fromkeys(
            ("incarnation", "iteration", "k", "tip", "base"), _LARGEST
        )

    @property
    def max_bytes(self) -> int:
        """The size of the largest frame."""
        array = self._array
        return max(MAX_HEADER_BYTES, array.dtype.itemsize * int(np.prod(array.shape)))

    def encode(self, message: LinkMessage) -> list[bytes | memoryview]:
        """Frames of one message: a header, and the payload of `ratios`, which shares the array's memory."""
        header: dict[str, Any] = {"kind": message.kind, "answered": message.answered}
        header |= {name: getattr(message, name) for name in self._limits}
        if message.u is None:
            return _frames(self._run_id, header)
        header |= {"dtype": self._array.dtype.name, "shape": list(self._array.shape)}
        return _frames(self._run_id, header, _bytes(np.ascontiguousarray(message.u, self._array.dtype)))

    def encode_probe(self, probe: Probe) -> list[bytes | memoryview]:
        """The frames of a `Probe`."""
        return _frames(self._run_id, {"kind": _PROBE, **vars(probe)})

    def decode(self, frames: Frames) -> LinkMessage | Probe:
        """Unpack one message.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = _unpack(frames, self._run_id)
        kind = header.text("kind", (*_LINK_KINDS, _PROBE))
        if kind == _PROBE:
            sender = header.number("sender", self._limits["sender"])
            probe = Probe(sender, header.number("stamp", _LARGEST), header.flag("reply"))
            header.close()
            _expect_frames(frames, 1)
            return probe
        numbers = {name: header.number(name, limit) for name, limit in self._limits.items()}
        answered = header.flag("answered")
        payload = None
        if kind == _RATIOS:
            header.text("dtype", (self._array.dtype.name,))
            header.shape("shape", self._array.shape)
            _expect_frames(frames, 2)
            payload = self._array.unpack("payload", frames[1])
        else:
            _expect_frames(frames, 1)
        header.close()
        return LinkMessage(kind=kind, answered=answered, u=payload, **numbers)  # type: ignore[arg-type]


class EnvironmentCodec:
    """Messages between the agents and the environment server.

    Args:
        run_id: of the run; messages of another are refused.
        spec: the task's spaces.
        num_envs: B of the server.
        partial: it is one of several.
    """

    def __init__(self, run_id: str, spec: TaskSpec, num_envs: int, partial: bool = False) -> None:
        self._run_id = run_id
        self._spec = spec
        self._num_envs = num_envs
        self._partial = partial
        sizes = [4 * num_envs * max(size, spec.joint_action_width) for size in spec.observation_sizes]
        masks = [num_envs * space.n for space in spec.action_spaces if isinstance(space, Discrete)]
        self.max_bytes = max(MAX_HEADER_BYTES, *sizes, *masks, 24 * num_envs * partial)

    def encode(self, message: Hello | Action | Bye | Stop | Ping) -> list[bytes | memoryview]:
        """Frames of one message without observations."""
        header: dict[str, Any] = {"kind": type(message).__name__.lower()}
        header |= {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
        if not isinstance(message, Action):
            return _frames(self._run_id, header)
        action = np.ascontiguousarray(header.pop("action"), np.float32)
        return _frames(self._run_id, header, _bytes(action))

    def encode_observation(self, observation: Observation, agent: int) -> list[bytes | memoryview]:
        """Frames of what `agent` receives: a header that lists the arrays, then one frame for each."""
        arrays = {
            name: np.ascontiguousarray(array, expected.dtype)
            for name, expected in self._step_arrays(agent).items()
            if (array := getattr(observation.step, name)) is not None
        }
        header = {
            "kind": "observation",
            "attempt": observation.attempt,
            "iteration": observation.iteration,
            "t": observation.t,
            "arrays": list(arrays),
        }
        return _frames(self._run_id, header, *(_bytes(array) for array in arrays.values()))

    def decode_at_server(self, frames: Frames) -> Hello | Action | Bye:
        """Unpack what an agent sent.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = _unpack(frames, self._run_id)
        kind = header.text("kind", ("hello", "action", "bye"))
        sender = header.number("sender", self._spec.num_agents)
        message: Hello | Action | Bye
        if kind == "action":
            _expect_frames(frames, 2)
            action = self._action(sender).unpack("action", frames[1]).copy()
            if not np.isfinite(action).all():
                raise WireError("action is not finite")
            attempt, iteration, t = (header.number(name, _LARGEST) for name in ("attempt", "iteration", "t"))
            message = Action(sender, attempt, iteration, t, action)
        elif kind == "hello":
            _expect_frames(frames, 1)
            message = Hello(sender, *(header.number(k, _LARGEST) for k in ("incarnation", "iteration", "attempt")))
        else:
            _expect_frames(frames, 1)
            message = Bye(sender)
        header.close()
        return message

    def decode_at_agent(self, frames: Frames, agent: int) -> Observation | Stop | Ping:
        """Unpack what the server sent to `agent`.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = _unpack(frames, self._run_id)
        kind = header.text("kind", ("observation", "stop", "ping"))
        if kind != "observation":
            word = Stop(header.flag("finished")) if kind == "stop" else Ping()
            header.close()
            _expect_frames(frames, 1)
            return word
        attempt, iteration, t = (header.number(name, _LARGEST) for name in ("attempt", "iteration", "t"))
        step = self._unpack_step(agent, header.names("arrays"), frames[1:])
        header.close()
        return Observation(attempt, iteration, t, step)

    def _unpack_step(self, agent: int, names: list[str], payloads: Frames) -> AgentStep:
        expected = self._step_arrays(agent)
        optional = {"final_observation", "action_mask", "moments"}
        if names != [name for name in expected if name in names or name not in optional]:
            raise WireError(f"arrays are {names}, expected {list(expected)} in this order")
        _expect_frames(payloads, len(names))
        arrays = {name: expected[name].unpack(name, payloads[i]).copy() for i, name in enumerate(names)}
        return AgentStep(**(dict.fromkeys(optional) | arrays))  # type: ignore[arg-type]

    def _action(self, agent: int) -> _Array:
        return _Array(np.dtype(np.float32), (self._num_envs, self._spec.action_spaces[agent].width))

    def _step_arrays(self, agent: int) -> dict[str, _Array]:
        """The arrays of an `AgentStep`, in their order on the wire."""
        b, spec = self._num_envs, self._spec
        number, flag = np.dtype(np.float32), np.dtype(np.bool_)
        observation = _Array(number, (b, spec.observation_sizes[agent]))
        arrays = {
            "observation": observation,
            "reward": _Array(number, (b,)),
            "reward_scale": _Array(number, (1,)),
            "terminated": _Array(flag, (b,)),
            "truncated": _Array(flag, (b,)),
            "final_observation": observation,
            "joint_action": _Array(number, (b, spec.joint_action_width)),
        }
        space = spec.action_spaces[agent]
        if isinstance(space, Discrete):
            arrays["action_mask"] = _Array(flag, (b, space.n))
        if self._partial:
            arrays["moments"] = _Array(np.dtype(np.float64), (b, 3))
        return arrays


class _Header:
    """Takes the values of a header one by one; `close` refuses what nobody asked for, and what was damaged."""

    def __init__(self, values: dict[str, Any], payloads: Frames) -> None:
        self._values = values
        check = values.pop(_CHECK, None)
        self._intact = type(check) is int and check == _checksum(values, payloads)

    def number(self, name: str, limit: int) -> int:
        value = self._take(name, int)
        if not 0 <= value < limit:
            raise WireError(f"header has {name} {value}, expected 0 to {limit - 1}")
        return int(value)

    def flag(self, name: str) -> bool:
        return bool(self._take(name, bool))

    def text(self, name: str, allowed: tuple[str, ...] | None = None) -> str:
        value = str(self._take(name, str))
        if allowed is not None and value not in allowed:
            raise WireError(f"header has {name} {value!r}, expected {' or '.join(allowed)}")
        return value

    def names(self, name: str) -> list[str]:
        value = self._take(name, list)
        if not all(type(item) is str for item in value):
            raise WireError(f"header has a bad {name}")
        return list(value)

    def shape(self, name: str, expected: tuple[int, ...]) -> None:
        value = self._take(name, list)
        if any(type(item) is not int for item in value) or tuple(value) != expected:
            raise WireError(f"header has {name} {value}, expected {list(expected)}")

    def close(self) -> None:
        if self._values:
            raise WireError(f"header has unknown keys {sorted(self._values)}")
        if not self._intact:
            raise WireError("message was damaged on its way: its checksum is wrong", "checksum")

    def _take(self, name: str, kind: type) -> Any:
        value = self._values.pop(name, None)
        if type(value) is not kind:
            raise WireError(f"header has no {kind.__name__} named {name}")
        return value


def _frames(run_id: str, values: Mapping[str, Any], *payloads: memoryview) -> list[bytes | memoryview]:
    header = {"version": VERSION, "run": run_id, **values}
    return [bytes(msgpack.packb({**header, _CHECK: _checksum(header, payloads)})), *payloads]


def _checksum(header: Mapping[str, Any], payloads: Frames) -> int:
    """CRC-32 of a header, packed, and of what follows it: a flipped bit must not become another log ratio."""
    checksum = zlib.crc32(msgpack.packb(header))
    for payload in payloads:
        checksum = zlib.crc32(payload, checksum)
    return checksum


def _unpack(frames: Frames, run_id: str) -> _Header:
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise WireError(f"message has {len(frames)} frames, expected 1 to {MAX_FRAMES}", "too many frames")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise WireError(f"header has {len(frames[0])} bytes, at most {MAX_HEADER_BYTES} are allowed", "too large")
    try:
        values = msgpack.unpackb(frames[0], strict_map_key=True, max_ext_len=0, max_bin_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise WireError("header is not msgpack") from None
    if not isinstance(values, dict) or not all(type(key) is str for key in values):
        raise WireError("header is not a map of names")
    header = _Header(values, frames[1:])
    version = header.number("version", _LARGEST)
    if version != VERSION:
        raise WireError(f"format version is {version}, expected {VERSION}")
    if header.text("run") != run_id:
        raise WireError("message of another run", "foreign run")
    return header


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _expect_frames(frames: Frames, count: int) -> None:
    if len(frames) != count:
        raise WireError(f"message has {len(frames)} frames, expected {count}")
