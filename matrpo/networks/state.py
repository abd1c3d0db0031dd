"""Checkpoint state of networks and optimisers: flat dictionaries of arrays, by dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from matrpo.errors import ConfigError


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers, as `prefix.<name>`."""
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state, as `prefix.<number of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore `module_tensors`.

    Raises:
        ConfigError: the tensors are of networks of other sizes.
    """
    try:
        module.load_state_dict(under(tensors, f"{prefix}."))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"checkpoint does not fit the networks of this run: {reason}") from None


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore `optimizer_tensors`."""
    state: dict[str, Any] = optimizer.state_dict()
    state["state"] = {}
    for name, value in under(tensors, f"{prefix}.").items():
        index, key = name.split(".")
        state["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(state)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Copy tensors, on whatever device, to NumPy arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copy NumPy arrays to tensors."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
