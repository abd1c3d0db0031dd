"""Bugs planted one at a time in the link protocol, for the simulator to find."""

from __future__ import annotations

import inspect
from types import ModuleType

from matrpo.consensus import link
from matrpo.consensus.link import Link

PLANTED = {
    "common state: the smallest, not the largest": (
        "common = max({own.tip, own.base} & {other.tip, other.base}, default=None)",
        "common = min({own.tip, own.base} & {other.tip, other.base}, default=None)",
    ),
    "restarted neighbour after a commit is not estranged": (
        "self._estranged = self.tip.number > 0\n        if self._open and self._estranged",
        "self._estranged = False\n        if self._open and self._estranged",
    ),
    "restart of the neighbour keeps its old 'over'": (
        "        self._over = (-1, 0)\n        self._estranged",
        "        self._estranged",
    ),
    "restart of the neighbour keeps its pending ratios": (
        "self._later = self._answer = None",
        "self._answer = None",
    ),
    "estrangement is never forgotten": (
        "        self._estranged = False\n        self._open: LinkMessage",
        "        self._estranged = getattr(self, '_estranged', False)\n        self._open: LinkMessage",
    ),
    "quarantine is never lifted": (
        "        self.quarantined = False\n        self.heard_at",
        "        self.quarantined = getattr(self, 'quarantined', False)\n        self.heard_at",
    ),
    "over for exactly this activation does not close it": (
        "if self._open and self._over >= self._position:",
        "if self._open and self._over > self._position:",
    ),
    "deadline counts from the iteration's start": (
        "        self._opened_at = now\n        self._retries.open",
        "        self._retries.open",
    ),
    "own end commits unrounded ratios": (
        "u=rounded)\n        self._send(self._open)",
        "u=u)\n        self._send(replace(self._open, u=rounded))",
    ),
    "a refusal is not remembered": (
        '            self._refused = self._later.position\n            self._send(self._header("busy", *self._refused',
        '            self._send(self._header("busy", *self._later.position',
    ),
    "quarantine does not tell the neighbour": (
        "            self._give_up()\n\n    def _receive_ratios",
        "            self._close(Outcome.GIVEN_UP)\n\n    def _receive_ratios",
    ),
    "silence after any deadline, heard or not": (
        "self.silent = not self._heard",
        "self.silent = True",
    ),
    "late answer names the own position": (
        '            self._send(self._header("over", *message.position, answered=True))\n\n    def _sent',
        '            self._send(self._header("over", *self._position, answered=True))\n\n    def _sent',
    ),
    "later ratios replace without asking for the open ones": (
        "            self._later = message\n            if self._open:\n                self._insist()",
        "            self._later = message",
    ),
    "early payload of the wrong shape is not checked at begin": (
        "elif later is not None and not has_valid_payload(later, self._settings.wire_dtype, shape):",
        "elif later is not None and False:",
    ),
    "an old incarnation's message counts as a sign of life and is taken": (
        'if message.incarnation < self._incarnation:\n            return "incarnation"',
        'if message.incarnation < self._incarnation - 1:\n            return "incarnation"',
    ),
    "no answer is kept for a neighbour that still waits": (
        "        self._answer = own if own.answered else replace(own, answered=True)\n",
        "",
    ),
    "restart of the neighbour keeps its old answer": (
        "self._later = self._answer = None",
        "self._later = None",
    ),
    "who gives up at the deadline does not say so": (
        "            self.silent = not self._heard\n            self._give_up()",
        "            self.silent = not self._heard\n            self._close(Outcome.GIVEN_UP)",
    ),
}
"""What is replaced in the source of `matrpo.consensus.link`, and by what."""

HARMLESS = {
    "stale pending ratios are not dropped at approach": (
        "        if self._later and self._later.position < self._position:\n"
        "            self._later = None\n"
        '            self._drop("late")\n'
        "        past",
        "        past",
    ),
}
"""Changes that no neighbour can see: whatever looks at a pending message compares its number with this end's, a later
one takes its place, and the next iteration drops it."""


def with_bug(name: str) -> type[Link]:
    """The link protocol with a planted bug.

    Raises:
        ValueError: the source does not have the place, or has it twice.
    """
    old, new = (PLANTED | HARMLESS)[name]
    source = inspect.getsource(link)
    if source.count(old) != 1:
        raise ValueError(f"{name}: {source.count(old)} places in the source")
    module = ModuleType("broken_link")
    exec(compile(source.replace(old, new), "broken_link", "exec"), module.__dict__)
    return module.Link
