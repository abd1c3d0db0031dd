"""Pictures of VMAS's worlds, drawn without OpenGL."""

from __future__ import annotations

from typing import Any

import numpy as np

from matrpo.envs.drawing import COLOURS, Canvas

_LINE_WIDTH = 0.02
_KINDS = ("landmark", "grey", "blue", "orange", "green", "red", "purple", "brown")


def picture(env: Any) -> np.ndarray:
    """Environment 0 of VMAS's now, (350, 350, 3) uint8, as far out as shows all agents: landmarks below agents."""
    world, origin = env.world, np.array(env.scenario.render_origin, dtype=np.float64)
    reach = [np.abs(_place(agent) - origin).max() + 2 * agent.shape.circumscribed_radius() for agent in world.agents]
    canvas = Canvas(max(env.scenario.viewer_zoom, *reach))
    for entity in [*world.landmarks, *world.agents]:
        if bool(entity.is_rendering[0]):
            _draw(canvas, entity, _place(entity) - origin)
    return canvas.image()


def _place(entity: Any) -> np.ndarray:
    place: np.ndarray = entity.state.pos[0].double().numpy()
    return place


def _draw(canvas: Canvas, entity: Any, centre: np.ndarray) -> None:
    shape, kind = entity.shape, _kind(entity.color)
    if hasattr(shape, "radius"):
        canvas.disc(centre, shape.radius, kind)
    else:
        width = _LINE_WIDTH if type(shape).__name__ == "Line" else shape.width  # a line's is in pixels
        canvas.rectangle(centre, (shape.length, width), float(entity.state.rot[0]), kind)


def _kind(colour: Any) -> str:
    """The colour of ours that comes closest to one of VMAS's, RGB or RGBA, of numbers from 0 to 1."""
    rgb = 255 * np.atleast_2d(np.asarray(colour))[0, :3]
    return min(_KINDS, key=lambda kind: float(np.square(rgb - COLOURS[kind]).sum()))
