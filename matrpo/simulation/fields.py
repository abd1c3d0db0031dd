"""Reading the line that a history is written on: `name=value` fields, then faults."""

from __future__ import annotations

import math
from collections.abc import Collection


def split_line(text: str, expected: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The fields of a line by name, which must be those expected, and its other words.

    Raises:
        ValueError: a field is missing, or unknown.
    """
    words = text.split()
    fields = dict(word.split("=", 1) for word in words if "=" in word)
    for name in expected:
        if name not in fields:
            raise ValueError(f"a history needs {name}=...")
    for name in fields:
        if name not in expected:
            raise ValueError(f"a history has no {name}=...: expected {', '.join(expected)}")
    return fields, [word for word in words if "=" not in word]


def choice(name: str, text: str, allowed: Collection[str]) -> str:
    """A field's value, one of those allowed.

    Raises:
        ValueError: it is not.
    """
    if text not in allowed:
        raise ValueError(f"{name} must be {' or '.join(allowed)}, not {text!r}")
    return text


def integer(name: str, text: str, low: int, high: int) -> int:
    """A field's value, an integer within bounds.

    Raises:
        ValueError: it is not.
    """
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ValueError(f"{name}: expected an integer from {low} to {high}, not {text!r}")
    return value


def number(name: str, text: str, low: float, high: float) -> float:
    """A field's value, a number within bounds.

    Raises:
        ValueError: it is not.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, not {text!r}")
    return value
