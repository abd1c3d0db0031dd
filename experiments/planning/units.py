"""Parses and formats quantities with units: seconds, bytes, and network bandwidth."""

from __future__ import annotations

import math
import re

from matrpo.errors import ConfigError

_RATES = {"bps": 0.125, "kbps": 125.0, "Mbps": 125e3, "Gbps": 125e6, "B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9}
"""Bytes per second of each unit of bandwidth."""

_TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}

_QUANTITY = re.compile(r"(\d+\.?\d*|\.\d+)\s*([A-Za-z/]+)")


def bandwidth(text: str) -> float:
    """Parse a bandwidth as bytes per second, above 0.

    Raises:
        ConfigError: it is not a number with a unit such as Mbps (bits) or MB/s (bytes).
    """
    value = _read("--bandwidth", text, _RATES, "1Gbps or 40MB/s")
    if value == 0.0:
        raise ConfigError(f"--bandwidth {text}: expected more than nothing")
    return value


def latency(text: str) -> float:
    """Parse a latency as seconds.

    Raises:
        ConfigError: it is not a number with a unit such as ms.
    """
    return _read("--latency", text, _TIMES, "1ms or 50us")


def show_seconds(value: float) -> str:
    """Format seconds with three digits and a unit, from microseconds to hours."""
    for limit, unit, size in ((1e-3, "us", 1e-6), (1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0)):
        if value < limit:
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value / 3600.0)} h"


def show_bytes(value: float) -> str:
    """Format bytes with three digits and a unit, in powers of 1000."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0 if value < 1 else min(int(math.log10(value) // 3), len(units) - 1)
    return f"{_digits(value / 1000**power)} {units[power]}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _read(option: str, text: str, units: dict[str, float], example: str) -> float:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in units:
        raise ConfigError(f"{option} {text}: expected a number with one of {', '.join(units)}, such as {example}")
    return float(found[1]) * units[found[2]]
