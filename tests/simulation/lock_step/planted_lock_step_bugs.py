"""Lock steps that are wrong in one way each, for the simulator to catch: the real modules, some words replaced."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_PACKAGE = "matrpo.decentralized.lock_step"
_MODULES = ("rules", "membership", "starts", "gathering", "client", "server")
"""The modules that may be broken; each sees those before it."""


class Broken(NamedTuple):
    """What is wrong: in which module, and which text is replaced by which."""

    module: str
    right: str
    wrong: str


BROKEN = {
    "believes the largest claim of an iteration": Broken(
        "membership",
        "return max(wanted, default=0) if len(self._everyone) == 1 else _second(known, wanted)",
        "return max(wanted, default=0)",
    ),
    "believes the largest claim of an attempt": Broken(
        "membership",
        "known = _second(0, [self._hellos[agent].attempt for agent in self.connected])",
        "known = max((self._hellos[agent].attempt for agent in self.connected), default=0)",
    ),
    "takes a restarted agent for the one before": Broken(
        "membership",
        "reborn = agent in self.taking_part and hello.incarnation != self._hellos[agent].incarnation",
        "reborn = False",
    ),
    "acts in any attempt": Broken(
        "starts", "(start.iteration, start.attempt) != target", "start.iteration != target[0]"
    ),
    "does not see a later attempt": Broken(
        "starts", "start.iteration > iteration or start.attempt > attempt for", "start.iteration > iteration for"
    ),
    "begins what somebody may have learnt from": Broken(
        "gathering", "iteration = max(iteration, self.ended + 1)\n", "pass\n"
    ),
    "does not count its starts": Broken("gathering", "max(attempt + 1, known)", "max(attempt, known)"),
    "waits for ever for those who do not come back": Broken(
        "gathering", "return self._since + self._rules.patience", "return math.inf"
    ),
    "asks once": Broken(
        "client",
        "question.said, question.say_at = True, now + REPEAT",
        "question.said, question.say_at = True, float('inf')",
    ),
    "does not know that its folder was lost": Broken("client", "message.t > 0 and not self._has_acted:", "False:"),
    "takes an action of any attempt": Broken("server", "or message.attempt != self.attempt", "or False"),
    "takes an action of any step": Broken(
        "server", "or (message.iteration, message.t) not in ((self.iteration, self.t), self.label)", "or False"
    ),
    "breaks off as soon as one has left": Broken(
        "server", "2 * len(left) > (0 if waits else len(active | left))", "len(left) > 0"
    ),
    "waits for those who are silent": Broken(
        "server", "if now >= self._half_done_at + self._rules.silence:", "if False:"
    ),
    "names the last incarnation that there is": Broken(
        "server", "known := min(latest.incarnation, LATEST_INCARNATION)", "known := latest.incarnation"
    ),
    "forgets nobody": Broken("server", "self.membership.drop(agent)\n", "pass\n"),
    "wants again what it has learnt from": Broken(
        "starts", "return max(iteration, wanted), max", "return iteration, max"
    ),
    "keeps the actions of the last step": Broken("server", "        self.actions.clear()\n", ""),
}
"""What is wrong, by name."""


def broken_machines(broken: Broken) -> tuple[Any, Any]:
    """The server's and the agent's side of the lock step, of which one module is broken.

    Raises:
        ValueError: its source does not have the text, or has it twice.
    """
    copies: dict[str, Any] = {}
    for name in _MODULES:
        file = import_module(f"{_PACKAGE}.{name}").__file__
        assert file is not None
        source = Path(file).read_text()
        if name == broken.module:
            if source.count(broken.right) != 1:
                raise ValueError(f"{broken.right!r}: {source.count(broken.right)} places in {name}")
            source = source.replace(broken.right, broken.wrong)
        module = sys.modules[f"broken_{name}"] = ModuleType(f"broken_{name}")  # where dataclasses look names up
        exec(compile(source, f"broken {name}", "exec"), vars(module))
        vars(module).update({key: copies[key] for key in vars(module).keys() & copies.keys()})
        own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        copies.update(own)
    return copies["Server"], copies["Client"]
