"""The command `matrpo clipping-figure`; torch is imported when it draws."""

from __future__ import annotations

from pathlib import Path

import click

from matrpo.errors import ConfigError


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("clipping.png"), show_default=True, help="Picture to write."
)
@click.option("--agents", type=click.IntRange(min=2), default=5, show_default=True, help="Of all panels but the third.")
@click.option("--epochs", type=click.IntRange(min=1), default=100, show_default=True, help="Of the update.")
@click.option("--samples", type=click.IntRange(min=100), default=2000, show_default=True, help="Of the rollout.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the runs.")
def clipping_figure(out: Path, agents: int, epochs: int, samples: int, seed: int) -> None:
    """Draw how far a clipped update goes, by clip range, epochs and number of agents.

    The picture is written as .png and as .svg, its data beside it as .csv.
    """
    if out.suffix not in (".png", ".svg"):
        raise ConfigError(f"--out {out}: expected a file name that ends in .png or .svg")
    from matrpo.experiments.pages.clipping_figure import draw_clipping

    draw_clipping(out, agents, epochs, samples, seed)
