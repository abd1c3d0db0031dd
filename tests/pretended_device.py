"""A device that is pretended on the processor, to find every place that forgets to move a tensor to where networks are.

It goes by the name of torch's `meta` device, which is always there and holds nothing. Inside `pretended_device` a
tensor "on" it is a `PretendedTensor` around one of the processor's. An operation of both kinds fails, as it does on a
graphics card; a scalar of the processor's may take part, as it may there. So does a draw on it from one of the
processor's generators. Nothing else of a graphics card is pretended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
"""The device's name, as a run's setting `device`."""

_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
"""What may bring tensors of different devices together."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device.

    Attributes:
        inner: what it holds, on the processor.
    """

    inner: Tensor
    is_meta = False  # For `load_state_dict`, which says so of a parameter that holds nothing.
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made: PretendedTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=NAME
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on the pretended device, outside of `pretended_device`")

    def tolist(self) -> Any:
        """The values, as of a tensor that is copied to the processor for it."""
        return self.inner.tolist()


class _Operations(TorchDispatchMode):
    """Runs the operations of the pretended device on the processor, and refuses those that mix devices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # To skip torch's compiler is to import it.

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given: dict[str, Any] = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, given))[0] if isinstance(value, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        wanted = given.get("device")
        there = bool(here) if wanted is None else torch.device(wanted).type == NAME
        if here and func not in _MOVES and any(t.ndim for t in tensors if not isinstance(t, PretendedTensor)):
            raise RuntimeError(f"{func} of tensors on two devices: {[(str(t.device), t.shape) for t in tensors]}")
        if there and given.get("generator") is not None:
            raise RuntimeError(f"{func} on the pretended device with a generator of the processor's")
        if wanted is not None:
            given["device"] = torch.device("cpu")
        self.count += bool(here)
        outer = {id(tensor.inner): tensor for tensor in here}
        found = func(*_inner(args), **_inner(given))
        if func is torch.ops.aten.copy_.default:
            return args[0]
        return tree_map(lambda value: _outer(value, outer), found) if there else found


def _inner(values: Any) -> Any:
    return tree_map(lambda value: value.inner if isinstance(value, PretendedTensor) else value, values)


def _outer(value: Any, known: Mapping[int, PretendedTensor]) -> Any:
    """A result on the pretended device; of an operation in place, the very tensor that was given."""
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else PretendedTensor(value)


@contextlib.contextmanager
def pretended_device() -> Iterator[_Operations]:
    """Make `NAME` the pretended device; yields what counts the operations on it."""
    fused = mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=[NAME, "cpu"])
    with fused, _Operations() as mode:
        yield mode
