"""The algorithms that `--algo` may name, one line each: what they are, which settings they use, where they are."""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.errors import ConfigError, did_you_mean
from matrpo.settings.user_file import UserFile

_CONSENSUS = frozenset({"Trust region", "Consensus", "Links"})
_GRADIENT = frozenset({"Policy gradient"})
_TRUST_REGION = frozenset({"Policy gradient", "Trust region"})
_CLIPPING = frozenset({"clip_range", "clip_scaling"})
_ORDER = frozenset({"agent_order"})
_STATE = frozenset({"state_type"})
_ASCENT = _CLIPPING | {"actor_lr", "policy_epochs", "policy_batch", "entropy_coef"}
_REPLAY = frozenset({"Policy gradient", "Replay"})
_OFF = _ASCENT - {"actor_lr"} | _STATE


@dataclass(frozen=True)
class Entry:
    """An algorithm.

    Attributes:
        description: what it is, and whose.
        sections: headings of the settings that it uses besides those that all use.
        target: `module:Class` in `matrpo.algorithms`; empty for the decentralised algorithm, which is no `Algorithm`.
        graph: whether its agents talk along a communication graph.
        unused: settings that it does not use all the same.
    """

    description: str
    sections: frozenset[str]
    target: str = ""
    graph: bool = False
    unused: frozenset[str] = frozenset()

    def uses(self, setting: str, heading: str) -> bool:
        """Whether a setting under such a heading changes what the algorithm does."""
        if setting == "topology":
            return self.graph
        particular = frozenset[str]().union(*(entry.sections for entry in ALGORITHMS.values()))
        return setting not in self.unused and (heading in self.sections or heading not in particular)


ALGORITHMS = {
    "matrpo": Entry(
        "decentralised multi-agent trust region policy optimisation (Li & He)",
        _CONSENSUS,
        graph=True,
        unused=frozenset({"share_parameters", "accept_ratio"}),
    ),
    "happo": Entry("heterogeneous-agent PPO (Zhong et al.)", _GRADIENT, "happo:HAPPO"),
    "hatrpo": Entry("heterogeneous-agent TRPO (Zhong et al.)", _TRUST_REGION, "hatrpo:HATRPO", unused=_ASCENT),
    "haa2c": Entry("heterogeneous-agent A2C (Zhong et al.)", _GRADIENT, "haa2c:HAA2C", unused=_CLIPPING),
    "mappo": Entry("multi-agent PPO with a centralised critic (Yu et al.)", _GRADIENT, "mappo:MAPPO", unused=_ORDER),
    "ippo": Entry("independent PPO (Schröder de Witt et al.)", _GRADIENT, "ippo:IPPO", unused=_ORDER | _STATE),
    "jrppo": Entry("PPO that clips the ratio of the joint policy", _GRADIENT, "jrppo:JRPPO", unused=_ORDER),
    "maa2c": Entry(
        "multi-agent A2C with a centralised critic (Papoudakis et al.)",
        _GRADIENT,
        "maa2c:MAA2C",
        unused=_ORDER | _CLIPPING,
    ),
    "itrpo": Entry(
        "independent TRPO (Li & He's baseline)", _TRUST_REGION, "itrpo:ITRPO", unused=_ORDER | _STATE | _ASCENT
    ),
    "ctrpo": Entry(
        "TRPO of one policy for all agents (Li & He's baseline)",
        _TRUST_REGION,
        "ctrpo:CTRPO",
        unused=_ORDER | _ASCENT,
    ),
    "fdmarl": Entry(
        "actor-critics that average their critics (Zhang et al.)",
        _GRADIENT,
        "fdmarl:FDMARL",
        graph=True,
        unused=_ORDER | _STATE | _CLIPPING,
    ),
    "haddpg": Entry("heterogeneous-agent DDPG (Zhong et al.)", _REPLAY, "haddpg:HADDPG", unused=_OFF),
    "hatd3": Entry("heterogeneous-agent TD3 (Zhong et al.)", _REPLAY, "hatd3:HATD3", unused=_OFF),
    "had3qn": Entry(
        "heterogeneous-agent dueling double Q-network (Zhong et al.)", _REPLAY, "had3qn:HAD3QN", unused=_OFF
    ),
    "maddpg": Entry("multi-agent DDPG (Lowe et al.)", _REPLAY, "maddpg:MADDPG", unused=_OFF | _ORDER),
    "matd3": Entry("multi-agent TD3 (Ackermann et al.)", _REPLAY, "matd3:MATD3", unused=_OFF | _ORDER),
    "qmix": Entry("monotonic value function factorisation (Rashid et al.)", _REPLAY, "qmix:QMIX", unused=_OFF | _ORDER),
}


def check(name: str) -> None:
    """Check that an algorithm can be meant.

    Raises:
        ConfigError: there is none of that name, and it is no file.
    """
    if name not in ALGORITHMS and not _is_file(name):
        expected, hint = ", ".join(ALGORITHMS), did_you_mean(name, ALGORITHMS)
        raise ConfigError(f"bad value {name!r} for 'algo': expected one of {expected}, or path/to/file.py:Class{hint}")


def entry(name: str) -> Entry:
    """What is known of an algorithm; of one from a user's file, that it may use every setting."""
    return ALGORITHMS.get(name) or Entry(f"from {name}", _TRUST_REGION | {"Replay"})


def canonical_name(name: str) -> str:
    """The one name of an algorithm, whatever it was called by: a file by its absolute path.

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
    return name != "matrpo"


def _is_file(name: str) -> bool:
    return name.endswith(".py") or ".py:" in name
