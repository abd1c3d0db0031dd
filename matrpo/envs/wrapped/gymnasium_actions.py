"""Actions of Gymnasium spaces as `matrpo.spaces` has them: columns of the joint action, and masks of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np

from matrpo.errors import ConfigError
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete


class Converter(Protocol):
    """Interface of what converts the actions of one Gymnasium space."""

    @property
    def space(self) -> ActionSpace:
        """The same space as the joint action has it."""

    def value(self, part: np.ndarray) -> Any:
        """The action that an agent's columns stand for, an element of the Gymnasium space. (width,) float32."""

    def mask(self, allowed: Any) -> np.ndarray:
        """The allowed actions, (parameters,) booleans, from a mask as the Gymnasium space's `sample` takes it.

        Factors' masks may also lie side by side in one array.
        """


class _Index:
    """A `Discrete`."""

    def __init__(self, space: Any) -> None:
        self.space = Discrete(int(space.n))
        self._start = int(space.start)

    def value(self, part: np.ndarray) -> int:
        return int(part[0]) + self._start

    def mask(self, allowed: Any) -> np.ndarray:
        return _flat(allowed)


class _Indices:
    """A `MultiDiscrete` or `MultiBinary`: an array of indices."""

    def __init__(self, space: Any, sizes: np.ndarray, start: np.ndarray | int) -> None:
        self.space = MultiDiscrete(tuple(sizes.ravel()))
        self._start, self._shape, self._dtype = start, space.shape, space.dtype

    def value(self, part: np.ndarray) -> np.ndarray:
        value: np.ndarray = (part.astype(np.int64).reshape(self._shape) + self._start).astype(self._dtype)
        return value

    def mask(self, allowed: Any) -> np.ndarray:
        return _flat(allowed)


class _Bits(_Indices):
    """A `MultiBinary`, whose own masks say of each bit that it must be 0, must be 1, or is free (2)."""

    def mask(self, allowed: Any) -> np.ndarray:
        bits = np.asarray(allowed)
        if bits.shape != self._shape:
            return _flat(allowed)
        return np.stack([bits != 1, bits != 0], axis=-1).ravel()


class _Several:
    """A `Tuple` of discrete spaces."""

    def __init__(self, parts: Sequence[Converter]) -> None:
        self._parts = parts
        spaces = [part.space for part in parts]
        self.space = MultiDiscrete(tuple(n for space in spaces if not isinstance(space, Box) for n in space.sizes))
        ends = accumulate((space.width for space in spaces), initial=0)
        self._columns = [slice(*pair) for pair in pairwise(ends)]

    def value(self, part: np.ndarray) -> tuple[Any, ...]:
        return tuple(member.value(part[columns]) for member, columns in zip(self._parts, self._columns, strict=True))

    def mask(self, allowed: Any) -> np.ndarray:
        if not isinstance(allowed, tuple | list) or len(allowed) != len(self._parts):
            return _flat(allowed)
        pairs = zip(self._parts, allowed, strict=True)
        return np.concatenate(
            [np.ones(member.space.parameters, bool) if own is None else member.mask(own) for member, own in pairs]
        )


class _Vector:
    """A `Box`."""

    def __init__(self, space: Any) -> None:
        self._space = space
        self.space = Box(int(np.prod(space.shape)), space.low.ravel(), space.high.ravel())
        self._whole = np.issubdtype(space.dtype, np.integer)

    def value(self, part: np.ndarray) -> np.ndarray:
        """The vector within its bounds, rounded if the space is of integers."""
        value = np.clip(part.reshape(self._space.shape), self._space.low, self._space.high)
        return np.asarray(np.rint(value) if self._whole else value, dtype=self._space.dtype)

    def mask(self, allowed: Any) -> np.ndarray:
        return _flat(allowed)


def converter(task: str, agent: Any, space: Any) -> Converter:
    """What converts the actions of one agent's Gymnasium space.

    Raises:
        ConfigError: it is of another kind than `Discrete`, `MultiDiscrete`, `MultiBinary`, `Box` and `Tuple`, a
            `Tuple` has other members than the first three and `Tuple`, or `matrpo.spaces` has none like it.
    """
    from gymnasium import spaces

    where = f"task {task!r}: the action space of agent {agent!r} is {space}"
    try:
        found = _Vector(space) if isinstance(space, spaces.Box) else _discrete(space)
    except ConfigError as error:
        raise ConfigError(f"{' '.join(where.split())}; {error}") from None
    if found is None:
        raise ConfigError(f"{where}; expected Discrete, MultiDiscrete, MultiBinary, a Tuple of these, or Box")
    return found


def _discrete(space: Any) -> Converter | None:
    """The converter of a discrete space, None of any other."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return _Index(space)
    if isinstance(space, spaces.MultiDiscrete):
        return _Indices(space, space.nvec, space.start)
    if isinstance(space, spaces.MultiBinary):
        return _Bits(space, np.full(space.shape, 2), 0)
    if not isinstance(space, spaces.Tuple):
        return None
    parts = [part for member in space.spaces if (part := _discrete(member)) is not None]
    return _Several(parts) if len(parts) == len(space.spaces) else None


def _flat(allowed: Any) -> np.ndarray:
    """Masks side by side, of arrays or of arrays in sequences."""
    if isinstance(allowed, tuple | list):
        return np.concatenate([_flat(part) for part in allowed])
    return np.asarray(allowed, dtype=bool).ravel()
