"""Saves and restores what changes in an environment of VMAS: every tensor and number that its objects hold.

VMAS has no way to save an environment. Its state is spread over the attributes of its own objects and of the
scenario's, and over lists and dictionaries of these; each is named here by the way to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch

_ALIAS = "="
"""Ends the name of a tensor that has another name too, which is its value, in UTF-8."""
_LEFT_OUT = {"action_space", "observation_space"}


class SavedState:
    """What is now another than when an environment was made.

    Args:
        env: VMAS's environment, fresh.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._initial = _Walk(env).leaves

    def save(self) -> dict[str, np.ndarray]:
        """Every tensor and number that has changed, or came, by the way to it."""
        leaves = _Walk(self._env).leaves
        return {name: value for name, value in leaves.items() if not _equal(value, self._initial.get(name))}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Bring an environment that was made with the same arguments to where `save` was called."""
        changed = {name.removesuffix(_ALIAS) for name in state}
        whole = {name: value for name, value in self._initial.items() if name.removesuffix(_ALIAS) not in changed}
        whole |= state
        tensors = {name: torch.from_numpy(value.copy()) for name, value in whole.items() if value.ndim}
        containers = _Walk(self._env).containers
        for name, value in whole.items():
            first = value.tobytes().decode() if name.endswith(_ALIAS) else name
            holder, _, key = name.removesuffix(_ALIAS).rpartition(".")
            _put(_container(containers, holder), key, tensors[first] if value.ndim else value.item())


@dataclass
class _Walk:
    """Everything that can be reached from an environment, by the way to it.

    Attributes:
        containers: its objects, lists and dictionaries.
        leaves: their tensors and numbers as arrays.
    """

    env: Any
    containers: dict[str, Any] = field(default_factory=dict)
    leaves: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names: dict[int, str] = {id(self.env): ""}
        waiting = [("", self.env)]
        while waiting:
            name, container = waiting.pop()
            self.containers[name] = container
            for key, value in _items(container):
                path = f"{name}.{key}"
                if isinstance(value, torch.Tensor):
                    first = names.setdefault(id(value), path)
                    self.leaves.update(_leaf(path, first, value))
                elif isinstance(value, bool | int | float):
                    self.leaves[path] = np.array(value)
                elif _is_container(value) and id(value) not in names:
                    names[id(value)] = path
                    waiting.append((path, value))


def _leaf(path: str, first: str, tensor: torch.Tensor) -> dict[str, np.ndarray]:
    if path == first:
        return {path: np.array(tensor.numpy(), order="C", ndmin=1)}
    return {path + _ALIAS: np.frombuffer(first.encode(), dtype=np.uint8)}


def _items(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, dict):
        pairs = [(str(key), value) for key, value in container.items() if isinstance(key, str | int)]
    elif isinstance(container, list | tuple):
        pairs = [(str(k), value) for k, value in enumerate(container)]
    else:
        pairs = [(key, value) for key, value in vars(container).items() if key not in _LEFT_OUT]
    yield from pairs


def _container(containers: dict[str, Any], name: str) -> Any:
    """What is found there; else a new dictionary, as scenarios make for what they tell of a step."""
    if name not in containers:
        containers[name] = {}
        holder, _, key = name.rpartition(".")
        _put(_container(containers, holder), key, containers[name])
    return containers[name]


def _put(container: Any, key: str, value: Any) -> None:
    if isinstance(container, dict):
        container[next((one for one in container if str(one) == key), key)] = value
    elif isinstance(container, list):
        container[int(key)] = value
    elif not isinstance(container, tuple):
        vars(container)[key] = value


def _is_container(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return True
    module = type(value).__module__
    # Scenarios are loaded as modules without a name.
    return (module == "" or module.startswith(("vmas.", "torch.distributions."))) and not isinstance(value, Enum | type)


def _equal(value: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and value.dtype == other.dtype and np.array_equal(value, other, equal_nan=True)
