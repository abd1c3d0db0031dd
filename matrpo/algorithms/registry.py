"""The algorithms that `--algo` may name, one line each, and the import of the one that is wanted."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrpo.errors import ConfigError

if TYPE_CHECKING:
    from matrpo.algorithms.algorithm import Algorithm

_CONSENSUS = frozenset({"Trust region", "Consensus", "Links"})
_GRADIENT = frozenset({"Policy gradient"})
_TRUST_REGION = frozenset({"Policy gradient", "Trust region"})
_REPLAY = frozenset({"Policy gradient", "Replay"})


@dataclass(frozen=True)
class Entry:
    """An algorithm.

    Attributes:
        description: what it is, and whose.
        sections: headings of the settings that it uses besides those that all use.
        target: `module:Class` in this package; empty for the decentralised algorithm, which is no `Algorithm`.
        graph: whether its agents talk along a communication graph.
    """

    description: str
    sections: frozenset[str]
    target: str = ""
    graph: bool = False


ALGORITHMS = {
    "matrpo": Entry("decentralised multi-agent trust region policy optimisation (Li & He)", _CONSENSUS, graph=True),
    "happo": Entry("heterogeneous-agent PPO (Zhong et al.)", _GRADIENT, "happo:HAPPO"),
    "hatrpo": Entry("heterogeneous-agent TRPO (Zhong et al.)", _TRUST_REGION, "hatrpo:HATRPO"),
    "haa2c": Entry("heterogeneous-agent A2C (Zhong et al.)", _GRADIENT, "haa2c:HAA2C"),
    "mappo": Entry("multi-agent PPO with a centralised critic (Yu et al.)", _GRADIENT, "mappo:MAPPO"),
    "haddpg": Entry("heterogeneous-agent DDPG (Zhong et al.)", _REPLAY, "haddpg:HADDPG"),
    "hatd3": Entry("heterogeneous-agent TD3 (Zhong et al.)", _REPLAY, "hatd3:HATD3"),
    "had3qn": Entry("heterogeneous-agent dueling double Q-network (Zhong et al.)", _REPLAY, "had3qn:HAD3QN"),
    "maddpg": Entry("multi-agent DDPG (Lowe et al.)", _REPLAY, "maddpg:MADDPG"),
    "matd3": Entry("multi-agent TD3 (Ackermann et al.)", _REPLAY, "matd3:MATD3"),
    "qmix": Entry("monotonic value function factorisation (Rashid et al.)", _REPLAY, "qmix:QMIX"),
}


def check(name: str) -> None:
    """Check that an algorithm can be meant.

    Raises:
        ConfigError: there is none of that name, and it is no file.
    """
    if name not in ALGORITHMS and ".py:" not in name:
        close = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        expected = ", ".join(ALGORITHMS)
        raise ConfigError(f"bad value {name!r} for 'algo': expected one of {expected}, or path/to/file.py:Class{hint}")


def entry(name: str) -> Entry:
    """What is known of an algorithm; of one from a user's file, that it may use every setting."""
    return ALGORITHMS.get(name) or Entry(f"from {name}", _TRUST_REGION | {"Replay"})


def is_central(name: str) -> bool:
    """Whether the algorithm trains centrally, in one process."""
    return name != "matrpo"


def load(name: str) -> type[Algorithm]:
    """The class of an algorithm that trains centrally.

    Raises:
        ConfigError: a user's file cannot be imported, or has no such class.
    """
    from matrpo.algorithms.algorithm import Algorithm

    if name in ALGORITHMS:
        module, _, target = ALGORITHMS[name].target.partition(":")
        found: Any = getattr(import_module(f"matrpo.algorithms.{module}"), target)
    else:
        found = _from_file(name)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"algo {name!r}: it is no subclass of matrpo.algorithms.algorithm.Algorithm")
    return found


def _from_file(name: str) -> Any:
    path, _, target = name.rpartition(":")
    key = f"matrpo algorithm {Path(path).resolve()}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise ConfigError(f"algo {name!r}: there is no file {path}")
        module = module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[key]
            reason = str(error).splitlines()[:1]
            raise ConfigError(f"algo: importing {path} raised {type(error).__name__}: {' '.join(reason)}") from error
    return getattr(sys.modules[key], target, None)
