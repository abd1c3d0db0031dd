"""Registry of the algorithms that `--algo` may name: descriptions and import paths."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from matrpo.errors import ConfigError, did_you_mean
from matrpo.settings.user_file import UserFile

READ_BY_ALL = frozenset(
    {
        *("algo", "task", "agents", "seed", "steps"),
        *("num_envs", "env_workers", "episode_length", "rollout_length"),
        *("observe_changes", "reward", "reward_scaling", "gamma"),
        *("device", "torch_threads", "checkpoint_every", "checkpoints_kept", "tensorboard", "tracker"),
    }
)
"""Settings that every algorithm's run reads: those of the environments, and those of the run's records."""


@dataclass(frozen=True)
class Entry:
    """Registry entry of an algorithm.

    Attributes:
        description: what it is, and whose.
        target: `module:Class` in `matrpo`; the class says in `settings_read` which settings the algorithm reads.
        graph: whether its agents communicate along a graph.
        decentralized: whether each of its agents can be a process, with links to its neighbours.
        averages_targets: whether these links average one number a sample, not MATRPO's log ratios.
    """

    description: str
    target: str = ""
    graph: bool = False
    decentralized: bool = False
    averages_targets: bool = False

    def load(self) -> Any:
        """Import the module and return the class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(f"matrpo.{module}"), name)


ALGORITHMS = {
    "matrpo": Entry(
        "decentralised multi-agent trust region policy optimisation (Li & He)",
        "decentralized.matrpo:MATRPO",
        graph=True,
        decentralized=True,
    ),
    "happo": Entry("heterogeneous-agent PPO (Zhong et al.)", "algorithms.happo:HAPPO"),
    "hatrpo": Entry("heterogeneous-agent TRPO (Zhong et al.)", "algorithms.hatrpo:HATRPO"),
    "haa2c": Entry("heterogeneous-agent A2C (Zhong et al.)", "algorithms.haa2c:HAA2C"),
    "mappo": Entry("multi-agent PPO with a centralised critic (Yu et al.)", "algorithms.mappo:MAPPO"),
    "ippo": Entry("independent PPO (Schröder de Witt et al.)", "algorithms.ippo:IPPO"),
    "jrppo": Entry("PPO that clips the ratio of the joint policy", "algorithms.jrppo:JRPPO"),
    "maa2c": Entry("multi-agent A2C with a centralised critic (Papoudakis et al.)", "algorithms.maa2c:MAA2C"),
    "itrpo": Entry("independent TRPO (Li & He's baseline)", "algorithms.itrpo:ITRPO"),
    "ctrpo": Entry("TRPO of one policy for all agents (Li & He's baseline)", "algorithms.ctrpo:CTRPO"),
    "fdmarl": Entry("actor-critics that average their critics (Zhang et al.)", "algorithms.fdmarl:FDMARL", graph=True),
    "dnamarl": Entry(
        "actor-critics that average their value targets (Varela et al.)",
        "decentralized.dnamarl:DNAMARL",
        graph=True,
        decentralized=True,
        averages_targets=True,
    ),
    "haddpg": Entry("heterogeneous-agent DDPG (Zhong et al.)", "algorithms.haddpg:HADDPG"),
    "hatd3": Entry("heterogeneous-agent TD3 (Zhong et al.)", "algorithms.hatd3:HATD3"),
    "hasac": Entry("heterogeneous-agent soft actor-critic (Liu et al.)", "algorithms.hasac:HASAC"),
    "had3qn": Entry("heterogeneous-agent dueling double Q-network (Zhong et al.)", "algorithms.had3qn:HAD3QN"),
    "maddpg": Entry("multi-agent DDPG (Lowe et al.)", "algorithms.maddpg:MADDPG"),
    "matd3": Entry("multi-agent TD3 (Ackermann et al.)", "algorithms.matd3:MATD3"),
    "qmix": Entry("monotonic value function factorisation (Rashid et al.)", "algorithms.qmix:QMIX"),
}


def check(name: str) -> None:
    """Check that a name denotes a registered algorithm or a user's file.

    Raises:
        ConfigError: there is none of that name, and it is no file.
    """
    if name not in ALGORITHMS and not _is_file(name):
        expected, hint = ", ".join(ALGORITHMS), did_you_mean(name, ALGORITHMS)
        raise ConfigError(f"bad value {name!r} for 'algo': expected one of {expected}, or path/to/file.py:Class{hint}")


def entry(name: str) -> Entry:
    """Registry entry of an algorithm; for a user's file, one whose description is its origin."""
    return ALGORITHMS.get(name) or Entry(f"from {name}")


def canonical_name(name: str) -> str:
    """Canonical name of an algorithm: a user's file is named by its absolute path.

    Raises:
        ConfigError: the name is of a file alone.
    """
    return str(user_file(name) or name)


def user_file(name: str) -> UserFile | None:
    """The user's file that an algorithm is from; None for those of this package.

    Raises:
        ConfigError: the name is of a file alone.
    """
    return UserFile.parse("algo", name, "class", "Mine") if _is_file(name) else None


def is_central(name: str) -> bool:
    """Whether the algorithm trains centrally, in one process."""
    return not entry(name).decentralized


def _is_file(name: str) -> bool:
    return name.endswith(".py") or ".py:" in name
