"""Pictures of the pitch from above, drawn from observations."""

from __future__ import annotations

import numpy as np

from matrpo.envs.drawing import Canvas

_METRES = np.array([54.4, -83.6])
"""Of a unit of gfootball's along and across the pitch, whose second axis points downwards."""

_HALF_LENGTH, _HALF_WIDTH = 55.0, 36.0
_MARGIN = 3.0
_GOAL = 7.4
_AREA = (16.5, 40.3)
"""Depth and width of the penalty area."""

_POSITIONS = {"left": slice(0, 22), "right": slice(44, 66)}
_BALL, ACTIVE = slice(88, 90), slice(97, 108)
_ABSENT = -1.0
"""In place of the coordinates of players that a scenario does not have."""


def picture(observations: list[np.ndarray]) -> np.ndarray:
    """The pitch now, (350, 350, 3) uint8: the agents' team blue, the others red, players that agents control orange.

    Args:
        observations: of each agent, (115,): gfootball's `simple115v2`.
    """
    canvas = Canvas(_HALF_LENGTH + _MARGIN)
    _draw_pitch(canvas)
    controlled = np.any([observation[ACTIVE] for observation in observations], axis=0)
    for team, columns in _POSITIONS.items():
        for number, place in enumerate(observations[0][columns].reshape(-1, 2)):
            if (place != _ABSENT).any():
                kind = "red" if team == "right" else "orange" if controlled[number] else "blue"
                canvas.disc(place * _METRES, 1.6, kind)
    canvas.disc(observations[0][_BALL] * _METRES, 0.9, "landmark")
    return canvas.image()


def _draw_pitch(canvas: Canvas) -> None:
    centre = np.zeros(2)
    canvas.rectangle(centre, (2 * _HALF_LENGTH, 2 * _HALF_WIDTH), 0.0, "line")
    canvas.disc(centre, 9.15, "line")
    canvas.rectangle(centre, (0.4, 2 * _HALF_WIDTH), 0.0, "grey")
    for side in (-1.0, 1.0):
        depth, width = _AREA
        canvas.rectangle(np.array([side * (_HALF_LENGTH - depth / 2), 0.0]), (depth, width), 0.0, "line")
        canvas.rectangle(np.array([side * (_HALF_LENGTH + 1.0), 0.0]), (2.0, _GOAL), 0.0, "grey")
