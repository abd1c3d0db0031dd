"""The command `matrpo plot`; matplotlib is imported when it draws."""

from __future__ import annotations

from pathlib import Path

import click

from matrpo.errors import ConfigError
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely


@click.command()
@click.argument("groups", nargs=-1, required=True, metavar="LABEL=RUN[,RUN...] ...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture to write: .png or .svg.")
@click.option("--title", default="", help="Text above the plot.")
def plot(groups: tuple[str, ...], out: Path, title: str) -> None:
    """Plot training returns against environment steps: the mean over a group's runs, and the range they span.

    The data are written beside the picture as CSV.
    """
    if out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out {out}: expected a file name that ends in .png or .svg")
    labelled = [_parse(group) for group in groups]
    from matrpo.experiments.pages.plot import Curve, curve_data, draw, encode

    curves = [Curve(label, runs) for label, runs in labelled]
    write_crash_safely(out, encode(draw(curves, title), out.suffix[1:]))
    write_crash_safely(out.with_suffix(".csv"), curve_data(curves).encode())


def _parse(group: str) -> tuple[str, list[RunDirectory]]:
    label, separator, paths = group.partition("=")
    if not separator or not paths:
        raise ConfigError(f"{group}: expected LABEL=RUN[,RUN...]")
    return label, [RunDirectory.open(Path(path)) for path in paths.split(",")]
