"""The identity of a process of a run: its name, folder, secret key and command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """Role of a process in a run."""

    SERVER = 0
    TRAINER = 1
    AGENT = 2


_COMMANDS = {Role.SERVER: "env-server", Role.TRAINER: "trainer", Role.AGENT: "agent"}


@dataclass(frozen=True, order=True)
class ProcessId:
    """A process of a run: an environment server, the trainer of a central algorithm, or an agent; sorted in this order.

    Attributes:
        role: environment server, trainer or agent.
        number: an agent's id, or the index of an environment server.
    """

    role: Role
    number: int = 0

    @classmethod
    def server(cls, number: int = 0) -> ProcessId:
        """An environment server; by default the first."""
        return cls(Role.SERVER, number)

    @classmethod
    def trainer(cls) -> ProcessId:
        """An algorithm that trains centrally, as if it were a process of its own."""
        return cls(Role.TRAINER)

    @classmethod
    def agent(cls, number: int) -> ProcessId:
        """An agent."""
        return cls(Role.AGENT, number)

    @property
    def is_server(self) -> bool:
        """Whether it is an environment server."""
        return self.role is Role.SERVER

    @property
    def name(self) -> str:
        """Its name for users: `env-server`, `env-server 1`, `trainer`, `agent 3`."""
        return " ".join([_COMMANDS[self.role], *self._numeral])

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments of `matrpo` that start it, less `--cluster FILE`; no trainer is."""
        return [_COMMANDS[self.role], *(["--id", *self._numeral] if self._numeral else [])]

    @property
    def slug(self) -> str:
        """The name of its socket: `env`, `env-1`, `trainer`, `agent-03`."""
        if self.is_server:
            return "-".join(["env", *self._numeral])
        return f"agent-{self.number:02d}" if self.role is Role.AGENT else self.name

    @property
    def folder(self) -> str:
        """Its folder in the run directory: `env`, `env-1`, `trainer`, `agents/03`."""
        return f"agents/{self.number:02d}" if self.role is Role.AGENT else self.slug

    @property
    def key(self) -> str:
        """The name of its secret key's file, without its end: all environment servers share `env`."""
        return "env" if self.is_server else self.slug

    @property
    def _numeral(self) -> list[str]:
        return [str(self.number)] if self.role is Role.AGENT or self.number else []


def in_order_of_ports(num_agents: int, num_servers: int) -> list[ProcessId]:
    """The processes in the order of their ports: further environment servers come last and move nobody's port."""
    servers = [ProcessId.server(number) for number in range(num_servers)]
    return [*servers[:1], *map(ProcessId.agent, range(num_agents)), *servers[1:]]
