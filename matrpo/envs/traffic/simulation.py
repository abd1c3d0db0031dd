"""SUMO in this process, by libsumo: traffic that passes, and how long it has waited. A process can hold one."""

from __future__ import annotations

from collections.abc import Callable
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
_FIXED, _ACTUATED = 0, 3
"""SUMO's numbers of kinds of control."""


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

    def fix(self, green: int) -> None:
        """Let each light repeat its program from now on with green phases of so many seconds."""
        self._program(_FIXED, lambda _duration: (green, green, green))

    def actuate(self) -> None:
        """Let SUMO's actuated control end each light's green phases from now on, after 5 to 50 seconds."""
        self._program(_ACTUATED, lambda duration: (duration, MIN_GREEN, _MOST_GREEN))

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

    def _program(self, kind: int, durations: Callable[[float], tuple[float, float, float]]) -> None:
        """Replace each light's program, without the phases in which all is red: agents have none either.

        Args:
            kind: SUMO's number of the kind of control.
            durations: of a green phase, given its own: seconds, the fewest, and the most.
        """
        control = self.sumo.trafficlight
        for light in control.getIDList():
            program = control.getAllProgramLogics(light)[0].phases
            phases = [phase for phase in program if is_green(phase.state) or "y" in phase.state]
            for phase in filter(lambda phase: is_green(phase.state), phases):
                phase.duration, phase.minDur, phase.maxDur = durations(phase.duration)
            control.setProgramLogic(light, control.Logic("other", kind, 0, phases))
            control.setPhase(light, 0)

    def _trip(self, name: str) -> float:
        """A mean over the vehicles that have arrived."""
        return float(self.sumo.simulation.getParameter("", f"device.tripinfo.{name}"))
