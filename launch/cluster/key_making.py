"""Makes the keys of a cluster, and exchanges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matrpo.launch.cluster.cluster_file import Cluster, PublicKeys
from matrpo.launch.cluster.keys import KeyPair, key_path, load_pair, store_secrets


def equip(cluster: Cluster) -> Cluster:
    """Make a key pair for every process and store the secret halves; the cluster with the public ones, not yet saved.

    Raises:
        StorageError: a file cannot be written.
    """
    pairs = {agent: KeyPair.make() for agent in everyone(cluster)}
    for agent, pair in pairs.items():
        store_secrets(key_path(cluster.file, agent), [pair.secret])
    agents = tuple(pairs[agent].public for agent in range(len(cluster.endpoints)))
    return dataclasses.replace(cluster, keys=PublicKeys(agents, pairs[None].public))


def rotate(cluster: Cluster, agents: Sequence[int | None]) -> None:
    """Give these agents, and the environment server (None), new keys, in their files and in the cluster file.

    However it is cut short, every secret key file fits the cluster file: until that is replaced, key files hold the
    new key and the old one.

    Raises:
        ConfigError: an old secret key cannot be read.
        StorageError: a file cannot be written.
    """
    assert cluster.keys is not None
    pairs = {agent: KeyPair.make() for agent in agents}
    updated = cluster
    for agent, pair in pairs.items():
        path = key_path(cluster.file, agent)
        public = cluster.keys.environment if agent is None else cluster.keys.agents[agent]
        store_secrets(path, [pair.secret, load_pair(path, public, cluster.file).secret])
        updated = updated.with_key(agent, pair.public)
    updated.save(cluster.file)
    for agent, pair in pairs.items():
        store_secrets(key_path(cluster.file, agent), [pair.secret])


def everyone(cluster: Cluster) -> list[int | None]:
    """All processes: the environment server (None), and the agents by id."""
    return [None, *range(len(cluster.endpoints))]
