"""Encodes and decodes the messages between the agents and an environment server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from matrpo.consensus.message import LARGEST_NUMBER, Frames
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Ping, Stop
from matrpo.envs.masks import mask_size
from matrpo.envs.shared import AgentStep
from matrpo.launch.wire.frames import (
    MAX_HEADER_BYTES,
    ArrayFormat,
    Header,
    WireError,
    expect_frames,
    pack,
    raw_bytes,
    unpack,
)
from matrpo.spaces import TaskSpec, outside

_WORDS: dict[str, Callable[[Header], Outdated | Stop | Ping]] = {
    "outdated": lambda header: Outdated(header.number("incarnation", LARGEST_NUMBER)),
    "stop": lambda header: Stop(header.flag("finished")),
    "ping": lambda _: Ping(),
}
"""What a server says besides observations, by its kind, from a header."""


class EnvironmentCodec:
    """Codec of the messages between the agents and the environment server.

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
        self._arrays = [self._step_arrays(agent) for agent in range(spec.num_agents)]
        sizes = [4 * num_envs * max(size, spec.joint_action_width) for size in spec.observation_sizes]
        masks = [num_envs * mask_size(space) for space in spec.action_spaces]
        self.max_bytes = max(MAX_HEADER_BYTES, *sizes, *masks, 24 * num_envs * partial)

    def encode(self, message: Hello | Action | Bye | Outdated | Stop | Ping) -> list[bytes | memoryview]:
        """Frames of one message without observations."""
        header: dict[str, Any] = {"kind": type(message).__name__.lower()}
        header |= {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
        if not isinstance(message, Action):
            return pack(self._run_id, header)
        action = np.ascontiguousarray(header.pop("action"), np.float32)
        return pack(self._run_id, header, raw_bytes(action))

    def encode_observation(self, observation: Observation, agent: int) -> list[bytes | memoryview]:
        """Frames of what `agent` receives: a header that lists the arrays, then one frame for each."""
        arrays = {
            name: np.ascontiguousarray(array, expected.dtype)
            for name, expected in self._arrays[agent].items()
            if (array := getattr(observation.step, name)) is not None
        }
        header = {
            "kind": "observation",
            "attempt": observation.attempt,
            "iteration": observation.iteration,
            "t": observation.t,
            "arrays": list(arrays),
        }
        return pack(self._run_id, header, *(raw_bytes(array) for array in arrays.values()))

    def decode_at_server(self, frames: Frames) -> Hello | Action | Bye:
        """Unpack what an agent sent.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = unpack(frames, self._run_id)
        kind = header.text("kind", ("hello", "action", "bye"))
        sender = header.number("sender", self._spec.num_agents)
        message: Hello | Action | Bye
        if kind == "action":
            expect_frames(frames, 2)
            action = self._action(sender).unpack("action", frames[1]).copy()
            if reason := outside(self._spec.action_spaces[sender], action):
                raise WireError(f"agent {sender}'s action {reason}", "illegal action")
            attempt, iteration, t = (header.number(name, LARGEST_NUMBER) for name in ("attempt", "iteration", "t"))
            message = Action(sender, attempt, iteration, t, action)
        elif kind == "hello":
            expect_frames(frames, 1)
            message = Hello(
                sender, *(header.number(k, LARGEST_NUMBER) for k in ("incarnation", "iteration", "attempt"))
            )
        else:
            expect_frames(frames, 1)
            message = Bye(sender)
        header.close()
        return message

    def decode_at_agent(self, frames: Frames, agent: int) -> Observation | Outdated | Stop | Ping:
        """Unpack what the server sent to `agent`.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = unpack(frames, self._run_id)
        kind = header.text("kind", ("observation", *_WORDS))
        if kind != "observation":
            word = _WORDS[kind](header)
            header.close()
            expect_frames(frames, 1)
            return word
        attempt, iteration, t = (header.number(name, LARGEST_NUMBER) for name in ("attempt", "iteration", "t"))
        step = self._unpack_step(agent, header.names("arrays"), frames[1:])
        header.close()
        return Observation(attempt, iteration, t, step)

    def _unpack_step(self, agent: int, names: list[str], payloads: Frames) -> AgentStep:
        expected = self._arrays[agent]
        optional = {"final_observation", "action_mask", "moments", "begins"}
        if names != [name for name in expected if name in names or name not in optional]:
            raise WireError(f"arrays are {names}, expected {list(expected)} in this order")
        expect_frames(payloads, len(names))
        arrays = {name: expected[name].unpack(name, payloads[i]).copy() for i, name in enumerate(names)}
        return AgentStep(**(dict.fromkeys(optional) | arrays))  # type: ignore[arg-type]

    def _action(self, agent: int) -> ArrayFormat:
        return ArrayFormat(np.dtype(np.float32), (self._num_envs, self._spec.action_spaces[agent].width))

    def _step_arrays(self, agent: int) -> dict[str, ArrayFormat]:
        """The arrays of an `AgentStep`, in their order on the wire."""
        b, spec = self._num_envs, self._spec
        number, flag = np.dtype(np.float32), np.dtype(np.bool_)
        observation = ArrayFormat(number, (b, spec.observation_sizes[agent]))
        arrays = {
            "observation": observation,
            "reward": ArrayFormat(number, (b,)),
            "reward_scale": ArrayFormat(number, (1,)),
            "terminated": ArrayFormat(flag, (b,)),
            "truncated": ArrayFormat(flag, (b,)),
            "final_observation": observation,
            "joint_action": ArrayFormat(number, (b, spec.joint_action_width)),
        }
        if size := mask_size(spec.action_spaces[agent]):
            arrays["action_mask"] = ArrayFormat(flag, (b, size))
        if self._partial:
            arrays["moments"] = ArrayFormat(np.dtype(np.float64), (b, 3))
        arrays["begins"] = ArrayFormat(flag, (b,))
        return arrays
