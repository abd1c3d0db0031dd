"""The episodes of one environment, played in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.traffic.junction import Junction, Waiting
from matrpo.envs.traffic.network import read_network, traffic_spec
from matrpo.envs.traffic.simulation import YELLOW, Simulation, Trips
from matrpo.spaces import TaskSpec

STEP = 5
"""Seconds of a step."""


class Episodes:
    """The episodes of environment `number` of a batch, one after the other, each by its own seed.

    Args:
        network: the path of the network's file.
        number: b.
        seed: of the batch.
        length: steps of an episode.

    Attributes:
        simulation: SUMO.
        joint_action: (N,) float32, the green phase that each agent chooses next.
    """

    def __init__(self, network: Path, number: int, seed: int, length: int) -> None:
        self._lights = read_network(network).lights
        self.simulation = Simulation(network)
        self._number = number
        self._seed = seed
        self._length = length
        self._episode = -1
        self._steps = 0
        self._junctions: list[Junction] = []
        self._record = np.zeros((), dtype=record(traffic_spec(str(network), read_network(network))))
        self.joint_action = np.empty(len(self._lights), dtype=np.float32)

    def reset(self) -> np.ndarray:
        """Begin the next episode: its record."""
        self._episode += 1
        self._steps = 0
        self.simulation.start(counter_rng.episode_seed(self._seed, self._number, self._episode))
        waiting = Waiting()
        self._junctions = [Junction(light, self.simulation.sumo, waiting) for light in self._lights]
        self._record["observation"] = self._observe()
        return self._record

    def step(self) -> np.ndarray:
        """Let 5 seconds pass with the lights as `joint_action` says, and begin the next episode after the last."""
        phases = self.joint_action.astype(np.intp).tolist()
        changing = [light for light, phase in zip(self._junctions, phases, strict=True) if light.switch(phase, STEP)]
        self.simulation.advance(YELLOW)
        for light in changing:
            light.show_green()
        self.simulation.advance(STEP - YELLOW)
        self._steps += 1
        self._record["rewards"] = [junction.reward() for junction in self._junctions]
        self._record["truncated"] = self._steps == self._length
        # Always, since an episode may end in another environment.
        self._record["observation"] = self._record["final_observation"] = self._observe()
        if self._record["truncated"]:
            self._record["trips"] = self.simulation.trips()
            self.reset()
        return self._record

    def _observe(self) -> np.ndarray:
        return np.concatenate([junction.observation() for junction in self._junctions])


def record(spec: TaskSpec) -> np.dtype[np.void]:
    """The data type of what there is to say of one environment after a step."""
    seen = (np.float32, (sum(spec.observation_sizes),))
    return np.dtype(
        [
            ("rewards", np.float64, (spec.num_agents,)),
            ("truncated", np.bool_),
            ("observation", *seen),
            ("final_observation", *seen),
            ("trips", np.float64, (len(Trips._fields),)),
        ],
        align=True,
    )
