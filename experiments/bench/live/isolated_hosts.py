"""Simulated machines: network namespaces with addresses of their own, joined by a bridge. Linux, root, iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess

from matrpo.experiments.matrpo_command import MATRPO


class HostsError(RuntimeError):
    """Network namespaces cannot be made here; the text says why."""


class IsolatedHosts:
    """Network namespaces that stand for machines, within a `with` block. This machine's own network is not touched.

    Args:
        count: machines, 1 to 200.

    Raises:
        HostsError: on entering, where namespaces cannot be made.
    """

    def __init__(self, count: int) -> None:
        self._names = [f"mt{os.getpid()}h{host}" for host in range(count)]
        self._switch = f"mt{os.getpid()}s"
        self.addresses = [f"10.213.7.{host + 1}" for host in range(count)]

    def __enter__(self) -> IsolatedHosts:
        """Create the namespaces."""
        if shutil.which("ip") is None:
            raise HostsError("network namespaces need iproute2, which is not installed")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self._remove()
            raise HostsError(f"network namespaces cannot be made here: {error.stderr.strip()}") from None
        return self

    def __exit__(self, *raised: object) -> None:
        """Remove the namespaces."""
        self._remove()

    def pull_cable(self, host: int) -> None:
        """Cut a machine off silently: from now on all packets to and from it are dropped."""
        _inside(self._switch, "link", "set", f"port{host}", "down")

    def put_cable_back(self, host: int) -> None:
        """Undo `pull_cable`."""
        _inside(self._switch, "link", "set", f"port{host}", "up")

    def start(self, host: int, *arguments: str) -> subprocess.Popen[str]:
        """Run `matrpo` with these arguments on a machine; its standard error is piped."""
        command = ["ip", "netns", "exec", self._names[host], *MATRPO, *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _inside(self._switch, "link", "add", "bridge", "type", "bridge")
        _inside(self._switch, "link", "set", "bridge", "up")
        for host, (name, address) in enumerate(zip(self._names, self.addresses, strict=True)):
            _ip("netns", "add", name)
            port = ["name", f"port{host}", "netns", self._switch]
            _inside(name, "link", "add", "eth0", "type", "veth", "peer", *port)
            _inside(self._switch, "link", "set", f"port{host}", "master", "bridge", "up")
            _inside(name, "addr", "add", f"{address}/24", "dev", "eth0")
            _inside(name, "link", "set", "lo", "up")
            _inside(name, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        for name in (*self._names, self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _inside(name: str, *arguments: str) -> None:
    _ip("-n", name, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
