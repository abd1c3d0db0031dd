"""SUMO in this process, by libsumo: traffic that passes, and how long it has waited. A process can hold one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from matrpo.envs.extras import import_extra
from matrpo.envs.traffic.network import is_green, routes_beside

MIN_GREEN = 5
"""Fewest seconds that a light stays green, from the end of yellow."""

YELLOW = 2
"""Seconds of yellow between two green phases."""

_OPTIONS = [
    "--time-to-teleport=-1",
    "--waiting-time-memory=1000",
    "--device.tripinfo.probability=1",
    "--no-step-log",
    "--no-warnings",
    "--xml-validation=never",
]

_MOST_GREEN = 50
_ACTUATED = 3
"""SUMO's number of actuated control."""


class Trips(NamedTuple):
    """Means over all vehicles that were to start until now, in seconds, whether they have arrived or not.

    Attributes:
        waiting_time: slower than 0.1 m/s (SUMO's `waitingTime`), or before there was room to start.
        travel_time: from when they were to start.
    """

    waiting_time: float
    travel_time: float


class Simulation:
    """SUMO with a network and the routes beside it, in steps of a second; nobody is removed from a jam.

    Args:
        network: the path of its `.net.xml`.

    Attributes:
        sumo: libsumo.
        options: of SUMO, besides the seed.
    """

    def __init__(self, network: Path) -> None:
        self.sumo: Any = import_extra("libsumo", "traffic")
        self.options = [*_OPTIONS, "--net-file", str(network), "--route-files", str(routes_beside(network))]

    def start(self, seed: int) -> None:
        """Begin a new simulation, which is a function of the seed (31 bits) and of what is done in it."""
        arguments = [*self.options, "--seed", str(seed)]
        if self.sumo.isLoaded():
            self.sumo.load(arguments)
        else:
            self.sumo.start(["sumo", *arguments])

    def advance(self, seconds: int) -> None:
        """Let so many seconds pass."""
        for _ in range(seconds):
            self.sumo.simulationStep()

    def actuate(self) -> None:
        """Replace each light's program by SUMO's actuated control of the same phases, from now on."""
        control = self.sumo.trafficlight
        for light in control.getIDList():
            program = control.getAllProgramLogics(light)[0]
            phases = [
                control.Phase(phase.duration, phase.state, MIN_GREEN, _MOST_GREEN) if is_green(phase.state) else phase
                for phase in program.phases
            ]
            control.setProgramLogic(light, control.Logic("actuated", _ACTUATED, 0, phases))

    def trips(self) -> Trips:
        """How long vehicles have waited and travelled."""
        vehicle, now = self.sumo.vehicle, self.sumo.simulation.getTime()
        arrived = int(self._trip("count"))
        late = [vehicle.getDepartDelay(name) for name in self.sumo.simulation.getPendingVehicles()]
        waited, travelled = sum(late), sum(late)
        if arrived:
            delayed = self._trip("departDelay")
            waited += arrived * (self._trip("waitingTime") + delayed)
            travelled += arrived * (self._trip("duration") + delayed)
        under_way = vehicle.getIDList()
        for name in under_way:
            delayed = vehicle.getDepartDelay(name)
            waited += float(vehicle.getParameter(name, "device.tripinfo.waitingTime")) + delayed
            travelled += now - vehicle.getDeparture(name) + delayed
        vehicles = max(1, arrived + len(under_way) + len(late))
        return Trips(waited / vehicles, travelled / vehicles)

    def close(self) -> None:
        """End the simulation."""
        if self.sumo.isLoaded():
            self.sumo.close()

    def _trip(self, name: str) -> float:
        """A mean over the vehicles that have arrived."""
        return float(self.sumo.simulation.getParameter("", f"device.tripinfo.{name}"))
