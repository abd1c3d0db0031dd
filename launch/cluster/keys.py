"""Secret key files: one for each process, in the folder `keys/` beside the cluster file, readable by their owner alone.

A file holds the process's secret key in Z85, one line of 40 characters. During a key rotation it holds two:
whichever fits the public key in the cluster file counts, so that a rotation that is cut short harms nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import zmq

from matrpo.errors import ConfigError
from matrpo.runs.process_id import ProcessId
from matrpo.runs.storage import storing, write_crash_safely

FOLDER = "keys"

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_OTHERS = 0o077
_LENGTH = 40
_MOST_BYTES = 1024


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, in Z85."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> KeyPair:
        """Generate a new pair, from the system's random source."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def of(cls, secret: str) -> KeyPair:
        """The pair that a secret key belongs to: the public key follows from it.

        Raises:
            ValueError: it is no key.
        """
        try:
            return cls(zmq.curve_public(secret.encode()).decode(), secret)
        except (zmq.ZMQError, UnicodeError):
            raise ValueError("not a CURVE key") from None


def is_public_key(value: object) -> bool:
    """Whether a value is text that can be a public key: Z85 of 32 bytes."""
    if type(value) is not str:
        return False
    try:
        KeyPair.of(value)  # every 32 bytes are a secret key, and libzmq checks Z85 for us
    except ValueError:
        return False
    return len(value) == _LENGTH


def key_path(cluster_file: Path, process: ProcessId) -> Path:
    """The secret key file of a process."""
    return cluster_file.parent / FOLDER / f"{process.key}.key"


def store_secrets(path: Path, secrets: list[str]) -> None:
    """Write a secret key file, readable by its owner alone from its first byte on.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with storing(path):
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    write_crash_safely(path, "".join(f"{secret}\n" for secret in secrets).encode(), mode=_FILE_MODE)


def load_pair(path: Path, public: str, cluster_file: Path) -> KeyPair:
    """Load the key pair with this public key from its secret key file.

    Raises:
        ConfigError: the file is missing, readable by others, not a key file, or of another key.
    """
    _check_folder(path.parent)
    secrets = _read(path).split()
    try:
        pairs = [KeyPair.of(secret) for secret in secrets]
    except ValueError:
        raise ConfigError(f"{path} is not a secret key file: it must hold a line of {_LENGTH} characters") from None
    for pair in pairs:
        if pair.public == public:
            return pair
    raise ConfigError(f"{path} does not fit the public key in {cluster_file}: copy both from where they were made")


def _check_folder(folder: Path) -> None:
    try:
        loose = folder.stat().st_mode & _OTHERS
    except OSError as error:
        raise ConfigError(f"cannot read the keys' folder {folder}: {error.strerror}") from None
    if loose:
        raise ConfigError(f"{folder} is open to others; close it with: chmod 700 {folder}")


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path} is not a file")
            if status.st_mode & _OTHERS:
                raise ConfigError(f"{path} can be read by others; protect it with: chmod 600 {path}")
            return file.read(_MOST_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read the secret key {path}: {error.strerror}") from None
