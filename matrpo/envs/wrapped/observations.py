"""What a PettingZoo environment hands over for one agent, as numbers: observations, action masks, rewards, flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from matrpo.envs.conformance.check import Wrong, kind_of
from matrpo.envs.masks import mask_size
from matrpo.envs.wrapped.gymnasium_actions import Converter
from matrpo.errors import ConfigError

_MASK = "action_mask"
_LIKE_A_MASK = frozenset(
    {
        *("action_masks", "actions_mask", "mask", "avail_actions", "available_actions", "available_actions_mask"),
        *(
            "legal_actions",
            "legal_actions_mask",
            "legal_action_mask",
            "legal_moves",
            "valid_actions",
            "valid_action_mask",
        ),
    }
)
_Path = tuple[Any, ...]
_PIXELS = 255


class ObservationReader:
    """Flattens one agent's observations to float32 vectors, and finds its action masks in them or in its infos.

    An `action_mask` in a mapping, however deep, is taken out. Pixels, a uint8 `Box` from 0 to 255, are divided by 255.

    Args:
        task: its name, for errors.
        agent: the agent's name.
        space: of its observations.
        actions: converts its actions and masks.

    Attributes:
        size: length of the vectors.
        masked: whether its observations hold a mask.

    Raises:
        ConfigError: observations have no fixed length, or what looks like an action mask is not called so.
    """

    def __init__(self, task: str, agent: Any, space: Any, actions: Converter) -> None:
        if not space.is_np_flattenable:
            raise ConfigError(f"task {task!r}: the observations of agent {agent!r}, {space}, have no fixed length")
        self._agent = agent
        self._actions = actions
        leaves = list(_leaves(space))
        masks = [path for path, _ in leaves if _MASK in path]
        self._mask_path = masks[0][: masks[0].index(_MASK) + 1] if masks else None
        self._parts = [(path, *_converter(leaf)) for path, leaf in leaves if _MASK not in path]
        self.size = sum(size for _, _, size in self._parts)
        self.masked = bool(masks)
        if not masks and (name := _alike(leaves, mask_size(actions.space))):
            raise ConfigError(
                f"task {task!r}: {name!r} in the observations of agent {agent!r} looks like an action mask; "
                f"expected it under the name {_MASK!r}"
            )

    def flat(self, observation: Any) -> np.ndarray:
        """An observation as a float32 vector.

        Raises:
            Wrong: it does not fit its space.
        """
        parts = []
        for path, convert, size in self._parts:
            value = _at(observation, path, self._named("the observation"))
            where = self._named("the observation") + "".join(f"[{key!r}]" for key in path)
            part = convert(value, where)
            if part.size != size:
                raise Wrong.found(where, _described(value), _numbers(size))
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])

    def mask(self, observation: Any, info: Mapping[str, Any]) -> np.ndarray | None:
        """The agent's action mask, (n,) bool, from its info or its observation; None if neither has one.

        Raises:
            Wrong: it does not fit the agent's actions.
        """
        size, where = mask_size(self._actions.space), self._named("the action mask")
        given = _found(info)
        if given is None and self._mask_path is not None:
            given = _at(observation, self._mask_path, self._named("the observation"))
        if given is None:
            alike = next((key for key in info if key in _LIKE_A_MASK and _is_binary(info[key], size)), None)
            if alike:
                raise Wrong.found(self._named("the action mask"), f"called {alike!r}", f"the name {_MASK!r}")
            return None
        if not size:
            raise Wrong.found(where, _described(given), f"none for actions of {self._actions.space}")
        parts = [part for part in given if part is not None] if _is_ragged(given) else [given]
        entries = np.concatenate([_as_numbers(part, where).ravel() for part in parts])
        if not np.isfinite(entries).all():
            raise Wrong.found(where, f"{entries[~np.isfinite(entries)][0]:g} in an entry", "0 or 1")
        allowed = self._actions.mask(given)
        if allowed.size != size:
            raise Wrong.found(where, _described(entries), f"{size} entries")
        return allowed

    def _named(self, what: str) -> str:
        return f"{what} of agent {self._agent!r}"


def one_number(value: Any, where: str) -> float:
    """A number, or an array of one, as a float.

    Raises:
        Wrong: it is something else.
    """
    if type(value) is float:
        return value
    numbers = _as_numbers(value, where)
    if numbers.size != 1:
        raise Wrong.found(where, _described(value), "a number")
    return float(numbers.reshape(-1)[0])


def _leaves(space: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """The parts of a space that are no mappings or tuples, and where they are, in the order of `gymnasium`."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, inner in items:
            yield from _leaves(inner, (*path, key))
    else:
        yield path, space


def _converter(space: Any) -> tuple[Callable[[Any, str], np.ndarray], int]:
    """The function that makes float32 vectors of a space's values, and their length."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box | spaces.MultiBinary):
        pixels = isinstance(space, spaces.Box) and space.dtype == np.uint8 and _has_bounds(space, 0, _PIXELS)
        return (_pixels if pixels else _plain), math.prod(space.shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec).astype(np.int64)
        starts = np.broadcast_to(np.ravel(space.start), counts.shape)
        return (lambda value, where: _one_hot(value, where, counts, starts)), int(counts.sum())
    return (lambda value, where: _flattened(space, value, where)), spaces.flatdim(space)


def _has_bounds(space: Any, low: float, high: float) -> bool:
    return bool((space.low == low).all() and (space.high == high).all())


def _plain(value: Any, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return _as_numbers(value, where).astype(np.float32).ravel()


def _pixels(value: Any, where: str) -> np.ndarray:
    return _plain(value, where) / np.float32(_PIXELS)


def _one_hot(value: Any, where: str, counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """One-hot vectors, side by side, of indices that lie in their ranges."""
    indices = _as_numbers(value, where).ravel()
    if indices.shape != counts.shape:
        raise Wrong.found(where, _described(value), _numbers(len(counts)))
    places = indices - starts
    if not ((places >= 0) & (places < counts) & (places == np.floor(places))).all():
        expected = ", ".join(f"{low} to {low + count - 1}" for low, count in zip(starts, counts, strict=True))
        raise Wrong.found(where, f"{indices.tolist()}", f"whole numbers of {expected}")
    vector = np.zeros(counts.sum(), dtype=np.float32)
    vector[np.cumsum(counts) - counts + places.astype(np.int64)] = 1.0
    return vector


def _flattened(space: Any, value: Any, where: str) -> np.ndarray:
    """A value of a space of another kind, as Gymnasium flattens it."""
    from gymnasium import spaces

    if not space.contains(value):
        raise Wrong.found(where, _described(value), f"an element of {space}")
    return np.asarray(spaces.flatten(space, value), dtype=np.float32)


def _as_numbers(value: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise Wrong.found(where, _described(value), "numbers")
    return array


def _at(value: Any, path: _Path, where: str) -> Any:
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise Wrong.found(where, f"without {key!r}: {_described(value)}", "what its space has") from None
    return value


def _found(info: Mapping[str, Any]) -> Any:
    """What is called an action mask in a mapping, or in the mappings in it; None if nothing is."""
    if _MASK in info:
        return info[_MASK]
    inner = (_found(value) for value in info.values() if isinstance(value, Mapping))
    return next((found for found in inner if found is not None), None)


def _alike(leaves: Sequence[tuple[_Path, Any]], size: int) -> str | None:
    """The name of what looks like an action mask of `size` entries, by its name and its space."""
    from gymnasium import spaces

    for path, leaf in leaves:
        kind = isinstance(leaf, spaces.MultiBinary) or (isinstance(leaf, spaces.Box) and _has_bounds(leaf, 0, 1))
        if path and path[-1] in _LIKE_A_MASK and kind and math.prod(leaf.shape) == size:
            return str(path[-1])
    return None


def _is_binary(value: Any, size: int) -> bool:
    if not isinstance(value, np.ndarray | list | tuple) or len(value) != size or not size:
        return False
    return all(np.ndim(entry) == 0 and entry in (0, 1) for entry in value)


def _is_ragged(value: Any) -> bool:
    """Whether a mask comes in parts, one for each factor of an action."""
    return isinstance(value, list | tuple) and any(np.ndim(part) for part in value)


def _numbers(size: int) -> str:
    return "1 number" if size == 1 else f"{size} numbers"


def _described(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return kind_of(value)
    return f"an array of shape {value.shape}" + (f" and type {value.dtype}" if value.dtype.kind not in "biuf" else "")
