"""What a user can do wrong, and what to say of it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A user's mistake in a setting. Its text is one line that names the key, the allowed values and the origin."""


def in_words(error: BaseException) -> str:
    """What an exception of somebody else's code says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
