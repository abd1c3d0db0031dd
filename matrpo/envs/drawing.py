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
        colour = np.array(COLOURS[kind], dtype=np.float64)
        reach = radius + 1.0 / self._scale
        box = self._near(self._y[:, 0] - centre[1], reach), self._near(self._x[0] - centre[0], reach)
        inside = (radius - np.hypot(self._x[:, box[1]] - centre[0], self._y[box[0]] - centre[1])) * self._scale + 0.5
        pixels = self._pixels[box]
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
