"""The CURVE keys that a process needs for TCP: its own pair, and the public keys of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Keyring:
    """The keys that a process holds, as Z85 text.

    Attributes:
        public, secret: its own pair.
        agents: every agent's public key, by id.
        environment: the environment server's public key.
    """

    public: str
    secret: str
    agents: tuple[str, ...]
    environment: str


@dataclass(frozen=True)
class Plain:
    """TCP without encryption or authentication: the user typed --insecure."""


PLAIN: Final = Plain()

Security = Keyring | Plain
