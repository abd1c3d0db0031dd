"""Generates and rotates the CURVE key pairs of a cluster's processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matrpo.launch.cluster.cluster_file import Cluster, PublicKeys
from matrpo.launch.cluster.keys import KeyPair, key_path, load_pair, store_secrets
from matrpo.runs.process_id import ProcessId


def equip(cluster: Cluster) -> Cluster:
    """Generate a key pair for every process and store the secret keys; the cluster with the public ones, not yet saved.

    Raises:
        StorageError: a file cannot be written.
    """
    pairs = {holder: KeyPair.make() for holder in key_holders(cluster)}
    for holder, pair in pairs.items():
        store_secrets(key_path(cluster.file, holder), [pair.secret])
    server, *agents = [pair.public for pair in pairs.values()]
    return dataclasses.replace(cluster, keys=PublicKeys(tuple(agents), server))


def rotate(cluster: Cluster, holders: Sequence[ProcessId]) -> None:
    """Replace the key pairs of these processes, in their secret key files and in the cluster file.

    However it is cut short, every secret key file fits the cluster file: until that is replaced, key files hold the
    new key and the old one.

    Raises:
        ConfigError: an old secret key cannot be read.
        StorageError: a file cannot be written.
    """
    assert cluster.keys is not None
    pairs = {holder: KeyPair.make() for holder in holders}
    keys = cluster.keys
    for holder, pair in pairs.items():
        path = key_path(cluster.file, holder)
        store_secrets(path, [pair.secret, load_pair(path, cluster.keys.of(holder), cluster.file).secret])
        keys = keys.replace(holder, pair.public)
    dataclasses.replace(cluster, keys=keys).save(cluster.file)
    for holder, pair in pairs.items():
        store_secrets(key_path(cluster.file, holder), [pair.secret])


def key_holders(cluster: Cluster) -> list[ProcessId]:
    """The processes that have a key of their own: the first environment server, which shares it, and the agents."""
    return [process for process in cluster.processes if process == ProcessId.server() or not process.is_server]
