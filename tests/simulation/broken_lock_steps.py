"""Lock steps that are wrong in one way each, for the simulator to catch: the real modules, with a few words replaced."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = "matrpo.decentralized.lock_step"
_MODULES = ("rules", "membership", "starts", "gathering", "client", "server")
"""The modules that may be broken; each sees those before it."""


class Broken(NamedTuple):
    """What is wrong: in which module, which text is replaced by which, and what that violates."""

    module: str
    right: str
    wrong: str
    caught_by: str


BROKEN = {
    "believes the largest claim of an iteration": Broken(
        "membership",
        "return max(wanted, default=0) if len(self._everyone) == 1 else _second(known, wanted)",
        "return max(wanted, default=0)",
        "L3",
    ),
    "believes the largest claim of an attempt": Broken(
        "membership",
        "return min(known[0], alone) if len(known) == 1 else _second(0, known)",
        "return max(known, default=0)",
        "L3",
    ),
    "admits those who want a later iteration": Broken(
        "membership",
        "if self._hellos[agent].iteration <= iteration and self._hellos[agent].attempt <= attempt",
        "if self._hellos[agent].attempt <= attempt",
        "L6",
    ),
    "takes a restarted agent for the one before": Broken(
        "membership",
        "reborn = agent in self.taking_part and hello.incarnation != self._hellos[agent].incarnation",
        "reborn = False",
        "L6",
    ),
    "keeps those who have left": Broken("membership", "self.taking_part -= self.left", "pass", "L6"),
    "acts in any attempt": Broken(
        "starts",
        "(start.iteration, start.attempt) != target",
        "start.iteration != target[0]",
        "L1",
    ),
    "does not see a later attempt": Broken(
        "starts",
        "start.iteration > iteration or start.attempt > attempt for",
        "start.iteration > iteration for",
        "L6",
    ),
    "begins what somebody may have learnt from": Broken(
        "gathering", "iteration = max(iteration, self.ended + 1)\n", "pass\n", "L1"
    ),
    "does not count its starts": Broken("gathering", "max(attempt + 1, known)", "max(attempt, known)", "L1"),
    "waits for ever for those who do not come back": Broken(
        "gathering", "return self._since + self._rules.patience", "return math.inf", "L6"
    ),
    "takes an answer of another attempt": Broken(
        "client",
        "if (heard.attempt, heard.iteration) != (action.attempt, action.iteration):",
        "if heard.iteration != action.iteration:",
        "L1",
    ),
    "asks once": Broken("client", "question.said, question.say_at = True, now + REPEAT", 
        "question.said, question.say_at = True, float('inf')", "L6"),
    "asks only who is behind": Broken(
        "client",
        "range(self._num_servers) if again else self._starts.behind(self.wanted)",
        "self._starts.behind(self.wanted)",
        "L6",
    ),
    "does not know that its folder was lost": Broken(
        "client", "message.t > 0 and not self._has_acted:", "False:", "L6"
    ),
    "takes an action of any attempt": Broken("server", "or message.attempt != self.attempt", "or False", "L1"),
    "takes an action of any step": Broken(
        "server",
        "or self._tick_of(message.iteration, message.t) != self._tick_of(self.iteration, self.t)",
        "or False",
        "L1",
    ),
    "breaks off as soon as one has left": Broken(
        "server", 'others = 0 if self._rules.on_loss == "wait" else len(active)', "others = 0", "L3"
    ),
    "waits for those who are silent": Broken(
        "server", "if now >= self._half_done_at + self._rules.silence:", "if False:", "L4"
    ),
    "does not write down that an iteration has ended": Broken(
        "server", "self._gathering.ended = self.iteration", "pass", "L1"
    ),
    "tells a newcomer of the iteration before": Broken(
        "server", "is_new = agent in self.membership.newcomers or", "is_new =", "L6"
    ),
    "names the last incarnation that there is": Broken(
        "server", "known := min(latest.incarnation, LATEST_INCARNATION)", "known := latest.incarnation", "L5"
    ),
    "refuses what is hard to believe": Broken("server", "if not self._rules.allows(hello):", "if doubt:", "L6"),
    "forgets nobody": Broken("server", "self.membership.drop(agent)\n", "pass\n", "L4"),
}


def broken_machines(broken: Broken) -> tuple[Any, Any]:
    """The server's and the agent's side of the lock step, of which one module is broken."""
    modules: dict[str, types.ModuleType] = {}
    for name in _MODULES:
        spec = find_spec(f"{_PACKAGE}.{name}")
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text()
        if name == broken.module:
            assert source.count(broken.right) == 1, f"{name} has changed"
            source = source.replace(broken.right, broken.wrong)
        module = modules[name] = types.ModuleType(f"broken_{name}")
        sys.modules[module.__name__] = module  # where dataclasses look names up
        exec(compile(source, f"broken {name}", "exec"), vars(module))
        for other in modules.values():
            vars(module).update({key: value for key, value in vars(other).items() if key in vars(module) and isinstance(value, type)})
    return vars(modules["server"])["Server"], vars(modules["client"])["Client"]
