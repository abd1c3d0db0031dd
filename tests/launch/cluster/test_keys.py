from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.cluster import key_making
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.cluster.key_making import equip, key_holders, rotate
from matrpo.launch.cluster.keyring import PLAIN, Keyring
from matrpo.launch.cluster.keys import KeyPair, is_public_key, key_path, load_pair, store_secrets
from matrpo.launch.processes.supervisor import make_cluster
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import StorageError
from matrpo.settings.config import Config
from matrpo.topology import make_graph


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    run = RunDirectory.create(tmp_path / "run", Config(agents=3, transport="tcp"), {})
    cluster = equip(make_cluster(run, make_graph("ring", 3, 0), tmp_path))
    cluster.save(cluster.file)
    return cluster


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ring(cluster: Cluster, process: ProcessId) -> Keyring:
    security = cluster.security(process)
    assert isinstance(security, Keyring)
    return security


def test_every_process_gets_a_key_of_its_own_that_only_the_owner_can_read(cluster: Cluster) -> None:
    folder = cluster.file.parent / "keys"
    assert sorted(path.name for path in folder.iterdir()) == ["agent-00.key", "agent-01.key", "agent-02.key", "env.key"]
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    loaded = Cluster.load(cluster.file)
    assert loaded.keys == cluster.keys
    rings = [ring(loaded, holder) for holder in key_holders(loaded)]
    assert len({one.secret for one in rings}) == 4
    assert [one.public for one in rings] == [rings[0].environment, *rings[0].agents]
    text = cluster.file.read_text()
    assert not any(one.secret in text for one in rings)


def test_secrets_are_private_under_any_umask_and_over_a_looser_leftover(tmp_path: Path) -> None:
    leftover = tmp_path / "keys" / ".env.key.tmp"
    leftover.parent.mkdir(mode=0o700)
    leftover.write_text("")
    leftover.chmod(0o666)
    old = os.umask(0)
    try:
        store_secrets(tmp_path / "keys" / "env.key", ["x" * 40])
    finally:
        os.umask(old)
    assert mode(tmp_path / "keys" / "env.key") == 0o600


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_read_is_refused(cluster: Cluster, loose: int) -> None:
    path = key_path(cluster.file, ProcessId.agent(1))
    path.chmod(loose)
    with pytest.raises(ConfigError, match=f"{path} can be read by others; protect it with: chmod 600 {path}"):
        cluster.security(ProcessId.agent(1))
    assert ring(cluster, ProcessId.agent(2))


def test_an_open_folder_is_refused(cluster: Cluster) -> None:
    folder = cluster.file.parent / "keys"
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match=f"{folder} is open to others; close it with: chmod 700 {folder}"):
        cluster.security(ProcessId.server())


def test_a_key_that_is_not_there_or_does_not_fit_is_named(cluster: Cluster) -> None:
    path = key_path(cluster.file, ProcessId.agent(0))
    store_secrets(path, [KeyPair.make().secret])
    with pytest.raises(ConfigError, match=r"agent-00.key does not fit the public key in .*cluster.yaml"):
        cluster.security(ProcessId.agent(0))
    for damage in ("", "short\n", "é" * 40, "\0" * 40):
        path.write_text(damage)
        with pytest.raises(ConfigError, match=r"agent-00.key (is not a secret key|does not fit)"):
            cluster.security(ProcessId.agent(0))
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read the secret key .*agent-00.key: No such file"):
        cluster.security(ProcessId.agent(0))
    path.mkdir()
    with pytest.raises(ConfigError, match=r"agent-00.key"):
        cluster.security(ProcessId.agent(0))


def test_public_keys_are_recognised() -> None:
    pair = KeyPair.make()
    assert is_public_key(pair.public)
    for value in (None, 5, "", pair.public[:-1], pair.public + "0", "é" * 40, " " * 40, pair.public.encode()):
        assert not is_public_key(value)


def test_tcp_without_keys_needs_consent(cluster: Cluster) -> None:
    bare = dataclasses.replace(cluster, keys=None)
    with pytest.raises(ConfigError, match=r"has no keys: .* --insecure"):
        bare.security(ProcessId.agent(0))
    assert dataclasses.replace(bare, insecure=True).security(ProcessId.agent(0)) is PLAIN


@pytest.mark.parametrize("names", [["agent 1"], ["env-server"], ["env-server", "agent 0", "agent 1", "agent 2"]])
def test_rotation_changes_these_keys_and_no_others(cluster: Cluster, names: list[str]) -> None:
    before = {holder: ring(cluster, holder).public for holder in key_holders(cluster)}
    rotate(cluster, [holder for holder in before if holder.name in names])
    after = Cluster.load(cluster.file)
    for holder in before:
        assert (ring(after, holder).public != before[holder]) == (holder.name in names)
        assert len(key_path(after.file, holder).read_text().split()) == 1, "the old secret is gone"


@pytest.mark.parametrize("writes", range(4))
def test_a_rotation_that_is_cut_short_leaves_keys_that_fit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    done = []

    def failing(path: Path, secrets: list[str]) -> None:
        if len(done) == writes:
            raise StorageError("the disk is full")
        done.append(path)
        store_secrets(path, secrets)

    monkeypatch.setattr(key_making, "store_secrets", failing)
    with pytest.raises(StorageError):
        rotate(cluster, [ProcessId.agent(0), ProcessId.agent(1)])
    after = Cluster.load(cluster.file)
    assert all(ring(after, holder) for holder in key_holders(after))


def test_a_damaged_key_cannot_be_rotated_away_unnoticed(cluster: Cluster) -> None:
    key_path(cluster.file, ProcessId.agent(0)).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        rotate(cluster, [ProcessId.agent(0)])


def test_the_pair_of_an_old_line_is_found(tmp_path: Path) -> None:
    new, old = KeyPair.make(), KeyPair.make()
    path = tmp_path / "keys" / "env.key"
    store_secrets(path, [new.secret, old.secret])
    assert load_pair(path, old.public, tmp_path / "cluster.yaml") == old
    assert load_pair(path, new.public, tmp_path / "cluster.yaml") == new
