"""Which agent or environment server a process is, where the engine that places it says so: Slurm, or Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from matrpo.errors import ConfigError

AUTO = "auto"
_ORDINAL = re.compile(r".*-(\d+)")


def own_number(given: str, environment: Mapping[str, str], what: str) -> int:
    """The number that `--id` means.

    Args:
        given: a number, or `auto`.
        environment: the process's environment variables. In a Slurm step the number is that of the task,
            `SLURM_PROCID`; in a pod of a Kubernetes StatefulSet it is the number that the pod's name, which is its
            host name, ends in.
        what: whose number, in words.

    Raises:
        ConfigError: it is neither a number nor `auto`, or nothing here says which process this is.
    """
    if given != AUTO:
        try:
            return int(given)
        except ValueError:
            raise ConfigError(f"--id {given}: expected an {what}'s number, or auto") from None
    if "SLURM_PROCID" in environment:
        return int(environment["SLURM_PROCID"])
    if "KUBERNETES_SERVICE_HOST" not in environment:
        raise ConfigError(
            "--id auto: this is neither a Slurm step (SLURM_PROCID is not set) nor a pod of Kubernetes "
            f"(KUBERNETES_SERVICE_HOST is not set): name the {what}, as in --id 0"
        )
    name = environment.get("HOSTNAME", "")
    ordinal = _ORDINAL.fullmatch(name)
    if ordinal is None:
        raise ConfigError(f"--id auto: the pod's name {name!r} does not end in a number: is it of a StatefulSet?")
    return int(ordinal[1])
