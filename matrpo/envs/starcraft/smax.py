"""SMAX, JaxMARL's battles after the StarCraft Multi-Agent Challenge (Rutherford et al., 2023), batched under jit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.drawing import Canvas
from matrpo.envs.extras import import_extra
from matrpo.envs.family import Family, KnownTask, fixed_task, packages
from matrpo.envs.task_names import unknown_task
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec

MAPS: dict[str, tuple[int, int]] = {
    "2s3z": (5, 5),
    "3s5z": (8, 8),
    "10m_vs_11m": (10, 11),
    "5m_vs_6m": (5, 6),
    "8m": (8, 8),
    "3s_vs_5z": (3, 5),
    "6h_vs_8z": (6, 8),
    "27m_vs_30m": (27, 30),
    "smacv2_5_units": (5, 5),
    "smacv2_10_units": (10, 10),
    "smacv2_20_units": (20, 20),
}
"""Allies, who are the agents, and enemies on each map."""

EPISODE_LENGTH = 101
"""Time limit in steps: JaxMARL compares its limit of 100 with the steps before the current one."""

_OWN_FEATURES, _UNIT_FEATURES = 10, 13
_SMAX_ACTIONS = np.array([4, 0, 1, 2, 3], dtype=np.int32)
"""SMAX's numbers of: stop, up, right, down, left."""


class SmaxEnv(VectorEnv):
    """B vectorised battles of N allies, the agents, against JaxMARL's heuristic enemies, on one of the maps.

    Actions are stop, up, right, down, left, then one for each enemy to attack; the mask leaves out enemies out of
    range. Stop is 0 here (SMAX numbers it 4), so that an agent that is absent stands still.

    A battle terminates for every agent when one side is dead, and is truncated after 101 steps, as in JaxMARL. An
    agent that is killed stays in its episode until then: it observes zeros, its mask leaves it stop alone, and it goes
    on being paid, as in SMAX, because what its death made possible is its merit too. With one action its log ratio is
    0, so these samples change nothing in its policy and teach its critic what is still to come.

    The team is paid the enemies' loss of health, each enemy's as a part of its full health, averaged over the enemies,
    and 1 for a victory: at most 2. Every ally receives the N-th part, so that the team return is the battle's. The
    state for centralised critics is SMAX's world state. `win_rate` is the share of battles won.

    What happens in episode e of environment b is a function of (seed, b, e) and the actions. Everything is computed on
    the CPU in one thread, and compiled once for a size: compiled code is kept in JAX's cache, by default in
    `~/.cache/matrpo/jax`.

    Args:
        name: the task, `smax/<map>`.
        num_envs: B.
        seed: of the episodes.

    Raises:
        ConfigError: there is no such map, or the extra `smax` is not installed.
    """

    statistics = ("win_rate",)

    def __init__(self, name: str, num_envs: int, seed: int) -> None:
        self.spec = smax_spec(name)
        self.num_envs = num_envs
        self._seed = seed
        self._first = 0
        self._battle = _battle(name.removeprefix("smax/"))
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._state: Any = None
        self._view: _View | None = None

    def number_from(self, first: int) -> None:
        self._first = first

    def reset(self) -> list[np.ndarray]:
        self._episodes += 1
        self._go_on_from(self._battle.begin(self._keys()))
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every battle by one step, 8 of the world's."""
        self._check_action(joint_action)
        if self._view is None:
            raise RuntimeError("reset the environment before stepping it")
        actions = joint_action.astype(np.int32)
        moves = actions < len(_SMAX_ACTIONS)
        actions[moves] = _SMAX_ACTIONS[actions[moves]]
        self._state, outcome = self._battle.advance(self._keys(), self._state, actions)
        self._view = self._battle.view(self._state)
        reward, won, over, timeout = (np.asarray(part) for part in outcome)
        step = VectorStep([], self._each(reward / self.spec.num_agents), self._each(over), self._each(timeout), None)
        ended = over | timeout
        if ended.any():
            step.final_observations, step.final_state = self.observe(), self.state()
            step.statistics = won[:, None].astype(np.float64)
            self._episodes += ended
            self._state = self._battle.restart(self._keys(), self._state, ended)
            self._view = self._battle.view(self._state)
        step.observations = self.observe()
        return step

    def observe(self) -> list[np.ndarray]:
        return list(self._seen.observations.copy())

    def state(self) -> np.ndarray:
        """Every unit's health, position, cooldown, type and team: SMAX's world state, (B, S) float32."""
        return self._seen.world.copy()

    def action_masks(self) -> list[np.ndarray | None]:
        """Each ally's allowed actions, (B, 5 + enemies) bool; a dead one's is stop alone."""
        return list(self._seen.masks.copy())

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """The battles' arrays, by their names in JaxMARL, and the numbers of the episodes."""
        names, leaves, _ = self._battle.flatten(self._state)
        return {**dict(zip(names, map(np.array, leaves), strict=True)), "episodes": self._episodes.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        names, leaves, rebuild = self._battle.flatten(self._battle.shapes(self._keys()))
        expected = {name: leaf.shape for name, leaf in zip(names, leaves, strict=True)}
        if {key: value.shape for key, value in state.items()} != {**expected, "episodes": (self.num_envs,)}:
            raise ValueError(f"the saved state is not of {self.spec.name} with as many environments")
        self._episodes = state["episodes"].copy()
        self._go_on_from(rebuild([state[name] for name in names]))

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8: allies blue, enemies orange, who is alive."""
        units, half = self._state.state, self._battle.map_size / 2
        canvas = Canvas(half_width=half)
        radii = self._battle.radii[np.asarray(units.unit_types[0])]
        for k in np.flatnonzero(np.asarray(units.unit_alive[0])):
            kind = "agent" if k < self.spec.num_agents else "leader"
            canvas.disc(np.asarray(units.unit_positions[0, k]) - half, float(radii[k]), kind)
        return canvas.image()

    def _go_on_from(self, state: Any) -> None:
        if self._view is None:
            # Compile now all that a step needs: agents should not wait for it in the middle of an iteration.
            keys, stop = self._keys(), np.zeros((self.num_envs, self.spec.num_agents), dtype=np.int32)
            stepped, _ = self._battle.advance(keys, state, stop)
            self._battle.restart(keys, stepped, np.ones(self.num_envs, dtype=bool))
        self._state = state
        self._view = self._battle.view(state)

    @property
    def _seen(self) -> _View:
        assert self._view is not None
        return self._view

    def _keys(self) -> np.ndarray:
        """A threefry key for each environment's episode, (B, 2) uint32."""
        words = counter_rng.bits(self._seed, self._first + np.arange(self.num_envs), self._episodes, draws=1)[0]
        return np.ascontiguousarray(words).view(np.uint32).reshape(self.num_envs, 2)

    def _each(self, values: np.ndarray) -> np.ndarray:
        return np.repeat(values[:, None], self.spec.num_agents, axis=1)


@dataclass
class _View:
    """The inputs of networks: observations (N, B, O) float32, world state (B, S) float32, masks (N, B, n) bool."""

    observations: np.ndarray
    world: np.ndarray
    masks: np.ndarray


class _Battle:
    """A map's compiled functions, vectorised over B states."""

    def __init__(self, map_name: str) -> None:
        self._jax, smax = _import()
        self._env = smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(map_name))
        self.map_size = float(self._env.map_width)
        self.radii = np.asarray(self._env.unit_type_radiuses)

    def begin(self, keys: np.ndarray) -> Any:
        """Initial states, from (B, 2) uint32 keys."""
        return self._begin(keys)

    def advance(self, keys: np.ndarray, state: Any, actions: np.ndarray) -> tuple[Any, tuple[Any, ...]]:
        """The next states, and of each battle: team reward float32, whether it was won, is over, ran out of time."""
        next_state, outcome = self._advance(keys, state, actions)
        return next_state, outcome

    def restart(self, keys: np.ndarray, state: Any, ended: np.ndarray) -> Any:
        """Initial states where `ended`, (B,) bool, and `state` elsewhere."""
        return self._restart(keys, state, ended)

    def view(self, state: Any) -> _View:
        """Observations, world states and action masks of the states."""
        observations, world, masks = (np.asarray(part) for part in self._look(state))
        return _View(observations, world, masks)

    def shapes(self, keys: np.ndarray) -> Any:
        """As `begin`, but shapes and types alone."""
        return self._jax.eval_shape(self._begin, keys)

    def flatten(self, state: Any) -> tuple[list[str], list[Any], Any]:
        """A state's arrays with their names, and the function that makes a state of such arrays."""
        paths, structure = self._jax.tree_util.tree_flatten_with_path(state)
        names = [self._jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
        return (
            names,
            [leaf for _, leaf in paths],
            lambda leaves: structure.unflatten(map(self._jax.numpy.asarray, leaves)),
        )

    @cached_property
    def _begin(self) -> Any:
        jax, env = self._jax, self._env

        def begin(key: Any) -> Any:
            state = env.reset(jax.random.fold_in(key, 0))[1]
            # Some of the arrays are weakly typed, for which `advance` would be compiled a second time.
            return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)

        return jax.jit(jax.vmap(begin))

    @cached_property
    def _advance(self) -> Any:
        jax, env = self._jax, self._env

        def advance(key: Any, state: Any, actions: Any) -> Any:
            key = jax.random.fold_in(key, state.state.step + 1)
            named = {agent: actions[q] for q, agent in enumerate(env.agents)}
            _, state, rewards, dones, _ = env.step_env(key, state, named)
            allies_live = state.state.unit_alive[: env.num_agents].any()
            enemies_live = state.state.unit_alive[env.num_agents :].any()
            over = ~allies_live | ~enemies_live
            outcome = rewards[env.agents[0]], allies_live & ~enemies_live, over, dones["__all__"] & ~over
            return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state), outcome

        return jax.jit(jax.vmap(advance))

    @cached_property
    def _restart(self) -> Any:
        jax = self._jax

        def restart(keys: Any, state: Any, ended: Any) -> Any:
            def choose(new: Any, old: Any) -> Any:
                return jax.numpy.where(ended.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(choose, self._begin(keys), state)

        return jax.jit(restart)

    @cached_property
    def _look(self) -> Any:
        jax, env = self._jax, self._env
        order = np.concatenate([_SMAX_ACTIONS, np.arange(len(_SMAX_ACTIONS), 5 + env.num_enemies)])

        def look(state: Any) -> Any:
            observations, masks = env.get_obs(state), env.get_avail_actions(state)
            allowed = jax.numpy.stack([masks[agent] for agent in env.agents])[:, order].astype(bool)
            return jax.numpy.stack([observations[agent] for agent in env.agents]), env.get_world_state(state), allowed

        return jax.jit(jax.vmap(look, out_axes=(1, 0, 1)))


@cache
def _battle(map_name: str) -> _Battle:
    """The map's functions, which all environments of a process share: tracing them takes seconds."""
    return _Battle(map_name)


def smax_spec(name: str) -> TaskSpec:
    """Agents and spaces of the task `smax/<map>`; nothing needs to be installed for it.

    Raises:
        ConfigError: there is no such map.
    """
    map_name = name.removeprefix("smax/")
    if map_name not in MAPS:
        raise unknown_task("smax/", map_name, MAPS)
    allies, enemies = MAPS[map_name]
    return TaskSpec(
        name=name,
        agents=tuple(f"ally_{q}" for q in range(allies)),
        observation_sizes=(_OWN_FEATURES + _UNIT_FEATURES * (allies + enemies - 1),) * allies,
        action_spaces=(Discrete(len(_SMAX_ACTIONS) + enemies),) * allies,
        episode_length=EPISODE_LENGTH,
    )


def make_smax(name: str, num_envs: int, seed: int) -> SmaxEnv:
    """Build `num_envs` battles of the task `smax/<map>`.

    Raises:
        ConfigError: there is no such map, or the extra `smax` is not installed.
    """
    return SmaxEnv(name, num_envs, seed)


def _import() -> tuple[Any, Any]:
    """The modules `jax`, bound to one thread of the CPU and to a cache on disk, and `jaxmarl.environments.smax`."""
    os.environ.setdefault("PJRT_NPROC", "1")
    jax = import_extra("jax", "smax")
    jax.config.update("jax_platforms", "cpu")
    if jax.config.jax_compilation_cache_dir is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "matrpo" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return jax, import_extra("jaxmarl.environments.smax", "smax")


def _task(map_name: str) -> KnownTask:
    allies, enemies = MAPS[map_name]
    description = f"{allies} against {enemies} that follow a rule"
    return fixed_task(smax_spec(f"smax/{map_name}"), description, make_smax)


FAMILY = Family(
    pattern="smax/<map>",
    description="battles in JAX after the StarCraft Multi-Agent Challenge",
    needs=packages("matrpo[smax]", "jaxmarl", "jax"),
    tasks=tuple(map(_task, MAPS)),
)
