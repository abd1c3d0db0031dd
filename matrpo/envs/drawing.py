"""Small pictures of particle worlds, drawn in NumPy."""

from __future__ import annotations

import numpy as np

COLOURS = {
    "background": (250, 250, 248),
    "line": (221, 223, 228),
    "landmark": (45, 50, 62),
    "agent": (72, 122, 200),
    "leader": (232, 128, 46),
    "grey": (150, 154, 163),
    "blue": (54, 104, 198),
    "orange": (241, 141, 0),
    "green": (43, 160, 44),
    "red": (214, 38, 40),
    "purple": (148, 103, 189),
    "brown": (140, 86, 75),
}
"""RGB of everything that is drawn."""

_SIZE = 350
_OPACITY = {"landmark": 1.0, "agent": 0.72, "leader": 0.78}
_USUAL_OPACITY = 0.85


class Canvas:
    """A square picture of the region [-half_width, half_width]^2, y upwards."""

    def __init__(self, half_width: float) -> None:
        self._pixels = np.empty((_SIZE, _SIZE, 3))
        self._pixels[...] = COLOURS["background"]
        self._scale = _SIZE / (2 * half_width)
        centres = (np.arange(_SIZE) + 0.5) / self._scale - half_width
        self._x = centres[None, :]
        self._y = -centres[:, None]

    def disc(self, centre: np.ndarray, radius: float, kind: str) -> None:
        """Draw a disc with a darker rim at `centre`, (2,), in the colour of `kind`."""
        box = self._around(centre, radius)
        self._fill(box, radius - np.hypot(self._x[:, box[1]] - centre[0], self._y[box[0]] - centre[1]), kind)

    def rectangle(self, centre: np.ndarray, sides: tuple[float, float], rotation: float, kind: str) -> None:
        """Draw a rectangle, whose first side is at `rotation`, in radians, from the x axis; else as `disc`."""
        box = self._around(centre, float(np.hypot(*sides)) / 2)
        x, y = self._x[:, box[1]] - centre[0], self._y[box[0]] - centre[1]
        cosine, sine = np.cos(rotation), np.sin(rotation)
        along, across = np.abs(cosine * x + sine * y), np.abs(cosine * y - sine * x)
        self._fill(box, np.minimum(sides[0] / 2 - along, sides[1] / 2 - across), kind)

    def _around(self, centre: np.ndarray, radius: float) -> tuple[slice, slice]:
        """The rows and columns of the square around a disc."""
        reach = radius + 1.0 / self._scale
        return self._near(self._y[:, 0] - centre[1], reach), self._near(self._x[0] - centre[0], reach)

    def _fill(self, box: tuple[slice, slice], depth: np.ndarray, kind: str) -> None:
        """Paint the pixels of a part of the picture that lie inside a shape, `depth` from its rim."""
        inside = depth * self._scale + 0.5
        colour, pixels = np.array(COLOURS[kind], dtype=np.float64), self._pixels[box]
        self._blend(pixels, np.clip(inside, 0.0, 1.0) * _OPACITY.get(kind, _USUAL_OPACITY), colour)
        rim = np.clip(inside, 0.0, 1.0) - np.clip(inside - 1.5, 0.0, 1.0)
        self._blend(pixels, rim, 0.75 * colour)

    def square(self, half_width: float) -> None:
        """Draw the outline of [-half_width, half_width]^2."""
        from_edge = np.abs(np.maximum(np.abs(self._x), np.abs(self._y)) - half_width) * self._scale
        self._blend(self._pixels, np.clip(1.25 - from_edge, 0.0, 1.0), np.array(COLOURS["line"], dtype=np.float64))

    def image(self) -> np.ndarray:
        """The picture so far: (350, 350, 3) uint8."""
        return np.rint(self._pixels).astype(np.uint8)

    @staticmethod
    def _near(distances: np.ndarray, reach: float) -> slice:
        """The rows or columns that are no further away than `reach`; empty if none are."""
        found = np.flatnonzero(np.abs(distances) <= reach)
        return slice(found[0], found[-1] + 1) if len(found) else slice(0)

    @staticmethod
    def _blend(pixels: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
        pixels += alpha[:, :, None] * (colour - pixels)
