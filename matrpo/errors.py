"""Errors of settings and tasks, suggestions for mistyped names, and one-line texts of exceptions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A user's mistake in a setting. Its text is one line that names the key, the allowed values and the origin."""


class TaskError(RuntimeError):
    """A task that fails, or gives what cannot be learned from. Its text is one line that names the task.

    In the middle of a run it ends the run; before one it is a `ConfigError`.
    """


def diverged(task: str, what: str, iteration: int) -> TaskError:
    """The error that what is learned has left the finite numbers.

    Args:
        task: its name.
        what: is not finite any more, and whose.
        iteration: in which.
    """
    return TaskError(
        f"task {task!r}: learning has diverged in iteration {iteration}: {what} is not finite; scale observations or "
        "rewards that are much larger than 1, or lower the learning rates"
    )


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to a mistyped one; None if none is similar.

    Args:
        name: the mistaken one.
        known: what there is.
        cutoff: how alike they must be, from 0 to 1.
    """
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A suggestion to append to an error about a mistyped name, or nothing; arguments as of `closest`."""
    close = closest(name, known, cutoff)
    return f"; did you mean {close!r}?" if close else ""


def lack_of_memory(error: BaseException) -> str:
    """What to tell the user if an exception says that this machine's memory is not enough; nothing if it does not.

    numpy raises `MemoryError`; torch a `RuntimeError` on the CPU, and its own `OutOfMemoryError` on an accelerator.
    """
    text = str(error)
    of_torch = "can't allocate memory" in text or type(error).__name__ == "OutOfMemoryError"
    if not (isinstance(error, MemoryError) or of_torch):
        return ""
    return (
        f"not enough memory: {text.splitlines()[0] if text else 'an allocation failed'}; lower --num-envs or "
        "--rollout-length (`matrpo plan` says what a run needs)"
    )


def in_words(error: BaseException) -> str:
    """The text of an exception of third-party code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
