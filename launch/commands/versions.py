"""The versions of what a run depends on."""

from __future__ import annotations

import importlib.metadata
import platform

_VERSIONED = (
    "matrpo",
    "torch",
    "numpy",
    "pyzmq",
    "msgpack",
    "safetensors",
    "gymnasium",
    "pettingzoo",
    "mpe2",
    "gymnasium-robotics",
    "mujoco",
    "jaxmarl",
    "jax",
    "vmas",
    "gfootball",
    "eclipse-sumo",
    "libsumo",
    "numba",
    "scipy",
    "ray",
    "imageio-ffmpeg",
)


def versions() -> dict[str, str]:
    """Python's version, and that of each package that matters and is installed."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
