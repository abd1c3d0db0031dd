"""One junction as an agent of sumo-rl 1.4.5 sees, switches and is paid for it, by that library's defaults.

Sources: `TrafficSignal` and `DefaultObservationFunction` of https://github.com/LucasAlegre/sumo-rl, version 1.4.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from matrpo.envs.traffic.network import TrafficLight
from matrpo.envs.traffic.simulation import MIN_GREEN, YELLOW

_MIN_GAP = 2.5
"""Metres between two vehicles that stand."""

_SCALE = 100.0
"""Seconds of waiting that cost 1."""


class Waiting:
    """How long each vehicle has waited on each lane, in seconds.

    SUMO says how long it has waited on all lanes together, during the last 1000 seconds; what was noted of other lanes
    is subtracted from that.
    """

    def __init__(self) -> None:
        self._noted: dict[str, dict[str, float]] = {}

    def note(self, vehicle: str, lane: str, in_all: float) -> float:
        """How long a vehicle has waited on the lane that it is on.

        Args:
            vehicle: its id.
            lane: where it is now.
            in_all: how long it has waited on all lanes.
        """
        noted = self._noted.setdefault(vehicle, {})
        noted[lane] = in_all - sum(time for other, time in noted.items() if other != lane)
        return noted[lane]


class Junction:
    """A junction during one episode: its light, what is seen of its lanes, and how long vehicles on them have waited.

    Args:
        light: its light.
        sumo: libsumo, its simulation at the episode's start.
        waiting: of all vehicles, shared by the junctions of a network.
    """

    def __init__(self, light: TrafficLight, sumo: Any, waiting: Waiting) -> None:
        self._light = light
        self._sumo = sumo
        self._waiting = waiting
        self._lengths = [sumo.lane.getLength(lane) for lane in light.lanes]
        self._phase = 0
        self._seconds = 0
        self._waited = 0.0
        self._show(light.greens[0])

    def switch(self, phase: int, seconds: int) -> bool:
        """Begin to change to another green phase, if the present one has been shown long enough.

        Args:
            phase: what to change to.
            seconds: that will pass until the next order.

        Returns:
            Whether it shows yellow now; `show_green` ends that.
        """
        changes = phase != self._phase and self._may_change()
        if changes:
            self._show(_yellow(self._light.greens[self._phase], self._light.greens[phase]))
            self._phase, self._seconds = phase, 0
        self._seconds += seconds
        return changes

    def show_green(self) -> None:
        """Show the green phase that was chosen."""
        self._show(self._light.greens[self._phase])

    def observation(self) -> np.ndarray:
        """The green phase as one-hot, whether it may be changed, and the density and the queue of each lane.

        Density and queue are the numbers of vehicles, and of those that stand, over how many would fit; at most 1.
        """
        lane = self._sumo.lane
        phase = [float(number == self._phase) for number in range(len(self._light.greens))]
        fitting = [
            length / (_MIN_GAP + lane.getLastStepLength(name))
            for name, length in zip(self._light.lanes, self._lengths, strict=True)
        ]
        there = np.array([lane.getLastStepVehicleNumber(name) for name in self._light.lanes])
        standing = np.array([lane.getLastStepHaltingNumber(name) for name in self._light.lanes])
        shares = np.minimum(np.concatenate([there, standing]) / np.tile(fitting, 2), 1.0)
        return np.array([*phase, float(self._may_change()), *shares], dtype=np.float32)

    def reward(self) -> float:
        """How much less the vehicles on its lanes have waited there than those at the call before; 1 is 100 seconds."""
        waited = sum(
            self._waiting.note(vehicle, lane, self._sumo.vehicle.getAccumulatedWaitingTime(vehicle))
            for lane in self._light.lanes
            for vehicle in self._sumo.lane.getLastStepVehicleIDs(lane)
        )
        before, self._waited = self._waited, waited / _SCALE
        return before - self._waited

    def _may_change(self) -> bool:
        return self._seconds >= YELLOW + MIN_GREEN

    def _show(self, state: str) -> None:
        self._sumo.trafficlight.setRedYellowGreenState(self._light.name, state)


def _yellow(green: str, following: str) -> str:
    """The phase between two green ones: yellow for those that have to stop."""
    return "".join("y" if now in "Gg" and then in "rs" else now for now, then in zip(green, following, strict=True))
