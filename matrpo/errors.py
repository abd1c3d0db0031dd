"""What a user can do wrong."""

from __future__ import annotations


class ConfigError(ValueError):
    """A user's mistake in a setting. Its text is one line that names the key, the allowed values and the origin."""
