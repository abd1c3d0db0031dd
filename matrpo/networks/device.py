"""The device that networks learn on, and the networks by which agents act beside it on the processor.

Random numbers are drawn on the processor, whatever the device, and moved: a device needs no generator of its own.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from matrpo.errors import ConfigError
from matrpo.settings.config import Config

CPU = torch.device("cpu")
"""The processor, on which agents act and environments are simulated."""

_CUBLAS_WORKSPACE = ":4096:8"
"""Workspaces with which cuBLAS gives the same bits each time: eight of 4 MiB."""

AnyConfig = TypeVar("AnyConfig", bound=Config)
Network = TypeVar("Network", bound=nn.Module)


def on_device(config: AnyConfig, alone: bool) -> AnyConfig:
    """The settings with the device on which networks learn in this process, which is made ready.

    Args:
        config: the run's settings.
        alone: whether this process is all of the run; only then may `auto` be a graphics card.

    Raises:
        ConfigError: there is no such device.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if alone and torch.cuda.is_available() else "cpu"
    check_device(name)
    if name == "cuda":
        make_deterministic()
    return dataclasses.replace(config, device=name)


def on_processor(config: AnyConfig) -> AnyConfig:
    """The settings with the processor as the device, as for agents that only act."""
    return dataclasses.replace(config, device="cpu")


def check_device(name: str) -> None:
    """Check that torch can use a device.

    Raises:
        ConfigError: it cannot.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"bad value 'cuda' for 'device': torch {torch.__version__} sees no CUDA device, expected cpu")


def cuda_devices() -> list[str]:
    """Names and memory of the CUDA devices that torch can use, in their order."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in found]


def make_deterministic() -> None:
    """Have CUDA give the same bits each time; before its first use, as cuBLAS looks at the environment then.

    torch raises an error from there on where an operation has no such implementation.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)
    torch.set_deterministic_debug_mode("error")  # As `use_deterministic_algorithms`, which imports torch's compiler.


class ActingNetworks(Generic[Network]):
    """Copies on the processor of networks that learn on another device, refreshed after an update.

    On the processor they are the very networks that learn: there is no copy, and nothing to refresh.

    Args:
        learning: the networks; those that several agents have in common are copied once.

    Attributes:
        networks: one for each of `learning`, in their order.
    """

    def __init__(self, learning: Sequence[Network]) -> None:
        acting = {id(network): _acting(network) for network in learning}
        self.networks = [acting[id(network)] for network in learning]
        distinct = {id(network): network for network in learning}
        self._copies = [(network, acting[key]) for key, network in distinct.items() if acting[key] is not network]

    def refresh(self) -> None:
        """Take the parameters as they are now."""
        for network, copied in self._copies:
            copied.load_state_dict(network.state_dict())


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device


def _acting(network: Network) -> Network:
    return network if device_of(network) == CPU else copy.deepcopy(network).to(CPU)
