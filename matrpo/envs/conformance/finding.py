"""A finding about a task."""

from __future__ import annotations

from typing import Literal, NamedTuple

Verdict = Literal["ok", "warn", "bad"]


class Finding(NamedTuple):
    """One line about a task: `ok`, a `warn`ing of what may go wrong, or `bad`: matrpo cannot train on it."""

    verdict: Verdict
    text: str
