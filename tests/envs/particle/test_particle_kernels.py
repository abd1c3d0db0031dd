"""The compiled loops of particle worlds write the bits of their NumPy references; how they are compiled and chosen."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.envs.particle import kernels, treasure_compiled, treasure_numpy, world_compiled, world_numpy
from matrpo.envs.particle.collect_treasure import CollectTreasureEnv
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.particle.particle_env import ParticleEnv
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.envs.particle.simple_spread import SimpleSpreadEnv
from matrpo.envs.particle.treasure import TreasureEnv
from matrpo.envs.particle.treasure_hunt import TreasureHuntEnv

AGENTS = st.lists(
    st.builds(
        Agent,
        radius=st.floats(0.0, 0.3),
        movable=st.booleans(),
        collides=st.booleans(),
        mass=st.floats(0.5, 4.0),
        force=st.floats(0.5, 6.0),
        max_speed=st.one_of(st.just(math.inf), st.floats(0.0, 1.5)),
    ),
    min_size=1,
    max_size=7,
)
LANDMARKS = st.lists(st.builds(Landmark, radius=st.floats(0.0, 0.3), collides=st.booleans()), max_size=5)
SIZES = st.sampled_from([1, 2, 16, 33])
SEEDS = st.integers(0, 2**64 - 1)
SPACING = st.sampled_from([0.0, 1e-3, 0.1])
"""Bodies are put on a grid so wide, and many of them at the very same point; 0 for no grid."""

TASKS = [NavigationEnv, SimpleSpreadEnv, TreasureEnv, CollectTreasureEnv]
SOURCE = """
from matrpo.envs.particle.compiling import compiled

@compiled("f8(f8)")
def twice(x):
    return 2.0 * x
"""


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Check that two arrays agree to the bit: 0.0 is not -0.0, and NaN is itself."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert ours.tobytes() == theirs.tobytes()


def crowd(shape: tuple[int, ...], spacing: float, draws: np.random.Generator) -> np.ndarray:
    places = draws.uniform(-0.5, 0.5, shape) * draws.choice([0.1, 1.0])
    return np.round(places / spacing) * spacing if spacing else places


@settings(max_examples=60, deadline=None)
@given(agents=AGENTS, landmarks=LANDMARKS, num_envs=SIZES, spacing=SPACING, seed=SEEDS)
def test_worlds_move_alike_to_the_bit(
    agents: list[Agent], landmarks: list[Landmark], num_envs: int, spacing: float, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    compiled, reference = (ParticleWorld(agents, landmarks, num_envs) for _ in range(2))
    compiled.kernels, reference.kernels = world_compiled, world_numpy
    places = crowd(compiled.positions.shape, spacing, draws)
    for world in (compiled, reference):
        world.place(places)
    for _ in range(6):
        thrust = draws.uniform(-1, 1, compiled.velocities.shape) * draws.integers(0, 2, (1, len(agents), 1))
        compiled.advance(thrust.copy())
        reference.advance(thrust)
        for name in ("positions", "velocities", "squared", "depth"):
            same(getattr(compiled, name), getattr(reference, name))
        same(collisions(compiled), collisions(reference))


@settings(max_examples=40, deadline=None)
@given(
    task=st.sampled_from(TASKS),
    num_agents=st.integers(2, 9),
    num_envs=SIZES,
    continuous=st.booleans(),
    spacing=SPACING,
    seed=SEEDS,
)
def test_tasks_run_alike_to_the_bit(
    task: type[ParticleEnv], num_agents: int, num_envs: int, continuous: bool, spacing: float, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    compiled, reference = (task(num_agents, num_envs, seed, continuous) for _ in range(2))
    use(compiled, world_compiled, treasure_compiled)
    use(reference, world_numpy, treasure_numpy)
    compiled.reset()
    state = compiled.state_dict()
    state["positions"] = crowd(state["positions"].shape, spacing, draws)
    for env in (compiled, reference):
        env.number_from(5)
        env.load_state_dict(state)
    for _ in range(8):
        actions = joint_actions(compiled, draws, continuous)
        ours, theirs = compiled.step(actions), reference.step(actions)
        same(ours.rewards, theirs.rewards)
        for one, other in zip(ours.observations, theirs.observations, strict=True):
            same(one, other)
        states = compiled.state_dict(), reference.state_dict()
        for name in states[0]:
            same(states[0][name], states[1][name])


def collisions(world: ParticleWorld) -> np.ndarray:
    counted = np.zeros((world.num_agents, world.num_envs))
    world.kernels.count_collisions(world.contacts, world.depth, counted)
    return counted


def use(env: ParticleEnv, world: ModuleType, treasure: ModuleType) -> None:
    env._world.kernels = world
    if isinstance(env, TreasureHuntEnv):
        env.kernels = treasure


def joint_actions(env: ParticleEnv, draws: np.random.Generator, continuous: bool) -> np.ndarray:
    shape = (env.num_envs, env.spec.joint_action_width)
    actions = draws.uniform(-0.2, 1.2, shape) if continuous else draws.integers(0, 5, shape)
    return actions.astype(np.float32)


def test_what_is_not_a_number_stays_so() -> None:
    squared = np.random.default_rng(0).uniform(0, 1, (3, 6, 4))
    squared[0, 4, 1] = squared[1, 3, 2] = squared[2, 5, 3] = np.nan
    ours, theirs = np.empty(4), np.empty(4)
    world_compiled.sum_uncovered(squared, ours)
    world_numpy.sum_uncovered(squared, theirs)
    assert np.isnan(ours).tolist() == np.isnan(theirs).tolist() == [False, True, True, True]
    same(ours[:1], theirs[:1])


@pytest.mark.parametrize("wrong", [-1.0, -1e-30, 3.0, 5.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loops", [world_compiled, world_numpy])
def test_an_index_outside_of_its_space_is_not_allowed(loops: ModuleType, wrong: float) -> None:
    sizes = np.array([5, 3], dtype=np.float32)
    indices = np.array([[4, 2], [0, -0.0]], dtype=np.float32)
    assert loops.allowed(indices, sizes)
    indices[1, 1] = wrong
    assert not loops.allowed(indices, sizes)


def test_both_implementations_have_the_same_functions() -> None:
    for compiled, reference in ((world_compiled, world_numpy), (treasure_compiled, treasure_numpy)):
        own = {name for name, one in vars(reference).items() if getattr(one, "__module__", "") == reference.__name__}
        public = {name for name in own if not name.startswith("_")}
        assert public
        assert public <= set(vars(compiled))


def test_numba_is_left_out_where_it_is_not_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")
    assert ParticleWorld([Agent(0.1)], [], 1).kernels is world_compiled
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert ParticleWorld([Agent(0.1)], [], 1).kernels is world_numpy
    assert kernels.load("treasure") is treasure_numpy


def load(path: Path) -> float:
    """Import the module at `path` anew, and call its compiled function."""
    spec = importlib.util.spec_from_file_location("twice", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    doubled: float = module.twice(1.5)
    return doubled


def test_machine_code_is_kept_and_made_anew_if_it_is_damaged(tmp_path: Path) -> None:
    module = tmp_path / "twice.py"
    module.write_text(SOURCE)
    assert load(module) == 3.0
    kept = sorted((tmp_path / "__pycache__").glob("*.nb?"))
    assert [file.suffix for file in kept] == [".nbc", ".nbi"]
    for file in kept:
        whole = file.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2]):
            file.write_bytes(damaged)
            assert load(module) == 3.0
        file.write_bytes(whole)


def test_loops_are_compiled_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "twice.py"
    module.write_text(SOURCE)
    for name in ("__pycache__", "no_folder"):
        (tmp_path / name).write_text("")
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "no_folder"))
    assert load(module) == 3.0
    assert {file.name for file in tmp_path.iterdir()} == {"twice.py", "__pycache__", "no_folder"}
