"""Trains once by a baseline of JaxMARL and measures it: a program for the interpreter that has JaxMARL, not matrpo.

Its arguments are the checkout, a baseline's module in it, and that script's settings as JSON. The last line of standard
output is what was measured, as JSON; after a failure the last line of standard error says why.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LAST = 10
"""The last updates of a run, whose episodes' mean return is the return that it has reached."""


def main(checkout: str, module: str, settings: str) -> None:
    """Import the baseline, compile its training, run it, and print the figures of the run."""
    sys.path.insert(0, checkout)
    script, jax = _imported(module), _imported("jax")
    if not hasattr(script, "make_train"):
        sys.exit(f"{module} has no make_train")
    if not hasattr(script, "wandb"):
        sys.exit(f"{module} has no wandb to log its returns to")
    logged: list[Mapping[str, Any]] = []
    script.wandb.log = logged.append
    key = jax.random.PRNGKey(json.loads(settings)["SEED"])
    began = time.perf_counter()
    try:
        train = jax.jit(script.make_train(json.loads(settings))).lower(key).compile()
        compiled, processor = time.perf_counter(), time.process_time()
        outcome = jax.block_until_ready(train(key))
        jax.effects_barrier()
    except Exception as error:
        sys.exit(f"make_train of {module} fails with the settings of its file: {_line(error)}")
    seconds, processor = time.perf_counter() - compiled, time.process_time() - processor
    figures = {"compile": compiled - began, "seconds": seconds, "processor": processor, "memory": peak_mebibytes()}
    try:
        learned = _learned(outcome["runner_state"], logged)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        sys.exit(f"make_train of {module} does not return and log what is expected: {_line(error)}")
    print(json.dumps({**figures, **learned, "versions": _versions("jax", "jaxlib", "flax")}))


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f"{sys.executable} has no module {error.name!r}, which {module} needs")
    except Exception as error:
        sys.exit(f"{module} cannot be imported: {_line(error)}")


def _learned(state: Any, logged: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The updates made, the mean return of the last of them, the steps of an episode, and the networks' parameters."""
    returns = [log["returns" if "returns" in log else "returned_episode_returns"] for log in logged]
    last = [float(value.mean()) for value in returns[-LAST:]]
    lengths = [float(length.mean()) for length in _attributes(state, "returned_episode_lengths")]
    parameters = sum(_attributes(list(_attributes(state, "params")), "size"))
    if not (last and lengths and parameters):
        raise KeyError("no returns, no returned_episode_lengths, or no params")
    return {
        "updates": len(returns),
        "return": sum(last) / len(last),
        "episode_steps": lengths[0],
        "parameters": parameters,
    }


def _attributes(tree: Any, name: str) -> Iterable[Any]:
    """An attribute of everything in nested dictionaries, lists and tuples that has it."""
    if hasattr(tree, name):
        yield getattr(tree, name)
        return
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    for part in parts:
        yield from _attributes(part, name)


def _versions(*modules: str) -> dict[str, str]:
    return {name: sys.modules[name].__version__ for name in modules if hasattr(sys.modules.get(name), "__version__")}


def peak_mebibytes() -> float:
    """Peak memory of this process in MiB, without what its parent held when it was started."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
