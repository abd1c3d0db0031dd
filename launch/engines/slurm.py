"""Slurm batch script of a run, for sbatch: its steps are the environment servers, one each, and the agents."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import jinja2

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.runs.storage import write_crash_safely

_OPTION = re.compile(r"-[^\n]+")


def check_options(options: Sequence[str]) -> None:
    """Check that these texts have the form of sbatch options.

    Raises:
        ConfigError: one cannot.
    """
    for option in options:
        if not _OPTION.fullmatch(option):
            raise ConfigError(f"--sbatch {option!r}: expected an option of sbatch, as --partition=long")


def write_script(cluster: Cluster, program: str, options: Sequence[str]) -> Path:
    """Write `slurm.sh` into the run directory of a cluster.

    Args:
        cluster: its hosts are found when the job starts.
        program: matrpo on the nodes.
        options: further options of sbatch, as `--partition=long`.

    Returns:
        The script.

    Raises:
        StorageError: the file cannot be written.
    """
    run = cluster.file.parent.absolute()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("matrpo.launch.engines"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda text: shlex.quote(str(text))
    text = environment.get_template("slurm.sh").render(
        name=run.name,
        run=run,
        matrpo=program,
        agents=len(cluster.agents),
        servers=len(cluster.servers),
        options=options,
    )
    path = run / "slurm.sh"
    write_crash_safely(path, text.encode(), mode=0o755)
    return path
