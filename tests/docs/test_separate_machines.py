"""The guide to separate machines, walked through: `pytest -n 0 -m slow tests/docs`. Needs root, nftables and systemd.

The two machines are two loopback addresses and two folders of this one. What would change the machine itself is done
where it changes nothing: firewall rules in a network namespace, units in another root folder.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from guides import ROOT, blocks, guide, run

NAME = "separate-machines"
IDS = range(4)

SSH = """#!/bin/bash
# The other machine is this one: its files are in another folder.
while [[ $1 == -* ]]; do
    [ "$1" = -o ] && shift
    shift
done
host=$1; shift
[ "$host" = 127.0.0.2 ] && exec bash -c "${*//"$HERE"/$THERE}"
exec bash -c "$*"
"""


class Walk:
    """The guide's machines.

    Args:
        folder: of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.there = folder / "here" / "run", folder / "there" / "run"
        self.root = folder / "root"
        ssh = folder / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(SSH)
        ssh.chmod(0o755)

    def take(self, text: str) -> None:
        """Do what a block says."""
        if "pip install" in text:
            self._install(text)
        elif text.startswith("nft"):
            run(f"unshare --net bash -eu <<'END'\n{text}nft list ruleset | grep -c saddr\nEND", self.folder)
        elif "systemctl" in text:
            self._install_units(text)
        elif text.startswith("matrpo env-server"):
            self._start_by_hand(text)
        else:
            run(self._placed(text), self.folder, HERE=str(self.here), THERE=str(self.there))

    def _placed(self, text: str) -> str:
        places = {"/opt/": f"{self.folder}/opt/", "10.0.0.": "127.0.0.", "/var/lib/matrpo/run": str(self.here)}
        for place, local in places.items():
            text = text.replace(place, local)
        return text

    def _install(self, text: str) -> None:
        clone = self.folder / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        run(self._placed(text), clone)

    def _start_by_hand(self, text: str) -> None:
        """Start a run of its own, each process in a terminal of its own, agents in descending order."""
        for run_folder in (self.here, self.there):
            for part in ("agents", "env"):
                shutil.rmtree(run_folder / part, ignore_errors=True)
        server, agent = self._placed(text).splitlines()
        commands = [agent.replace("--id 0", f"--id {q}") for q in IDS]
        commands[2:] = [command.replace(str(self.here), str(self.there)) for command in commands[2:]]
        with_matrpo = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        lines = [*reversed(commands), server]
        running = [subprocess.Popen(["bash", "-c", f"exec {line}"], env=with_matrpo) for line in lines]
        assert [process.wait() for process in running] == [0] * len(running)

    def _install_units(self, text: str) -> None:
        """Copy, adapt and enable the units in another root, and have systemd check them."""
        units = self.root / "etc" / "systemd" / "system"
        units.mkdir(parents=True)
        copy, rest = text.split("systemctl daemon-reload\n")
        run(self._placed(copy).replace("/etc/systemd/system/", f"{units}/"), self.folder)
        for unit in units.iterdir():
            unit.write_text(self._placed(unit.read_text()).replace("User=matrpo", "User=root"))
        run(f"systemd-analyze verify {units}/matrpo-env-server.service {units}/matrpo-agent@.service", self.folder)
        run(re.sub("enable --now", f"--root={self.root} enable", rest), self.folder)
        wanted = {unit.name for unit in (units / "multi-user.target.wants").iterdir()}
        assert wanted == {"matrpo-env-server.service", *(f"matrpo-agent@{q}.service" for q in IDS)}


@pytest.mark.slow
def test_the_guide_to_separate_machines_is_walked_through(tmp_path: Path) -> None:
    walk = Walk(tmp_path)
    for kind, text in blocks(guide(NAME)):
        assert kind == "sh"
        walk.take(text)
    assert len(list(walk.there.glob("agents/0[23]/checkpoint-*.safetensors"))) == 2
