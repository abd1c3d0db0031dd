"""What a process knows of keys, its own and others', to talk over TCP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Keyring:
    """What a process knows about keys, as Z85 text.

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
    """The user typed --insecure: TCP without keys."""


PLAIN: Final = Plain()


Security = Keyring | Plain
