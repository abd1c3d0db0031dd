"""Writes rendered frames of an episode as an animated GIF, or as MP4 by the ffmpeg that `imageio-ffmpeg` brings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from matrpo.errors import ConfigError
from matrpo.runs.storage import replaced_when_complete

_FRAME_MILLISECONDS = 80
_SAVERS = (".gif", ".mp4")


def check_film_name(path: Path) -> None:
    """Check that a film can be written under this file name.

    Raises:
        ConfigError: it ends in something else than .gif or .mp4, or MP4 needs what is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _SAVERS:
        raise ConfigError(f"--render {path}: expected a file name that ends in {' or '.join(_SAVERS)}")
    if suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            f"--render {path}: not installed: imageio-ffmpeg; pip install 'matrpo[render]', or name a .gif"
        )


def save_film(frames: Iterator[np.ndarray], path: Path) -> int:
    """Write a film; a file that is there is replaced when the new one is complete.

    Args:
        frames: the pictures, (H, W, 3) uint8, all of one size; at least one.
        path: where, as `check_film_name` allows.

    Returns:
        The number of frames.

    Raises:
        ConfigError: the file cannot be written, or pictures differ in size.
    """
    number = 0
    size: tuple[int, ...] | None = None

    def counted() -> Iterator[np.ndarray]:
        nonlocal number, size
        for frame in frames:
            number, size = number + 1, size or frame.shape
            if frame.shape != size:
                found = f"picture {number} has shape {frame.shape}"
                raise ConfigError(f"cannot write {path}: {found}, the first {size}; expected one size")
            yield frame

    try:
        with replaced_when_complete(path) as draft:
            (_save_mp4 if path.suffix.lower() == ".mp4" else _save_gif)(counted(), draft)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    return number


def _save_gif(frames: Iterator[np.ndarray], path: Path) -> None:
    images = map(Image.fromarray, frames)
    first = next(images)
    first.save(path, "GIF", save_all=True, append_images=images, duration=_FRAME_MILLISECONDS, loop=0)


def _save_mp4(frames: Iterator[np.ndarray], path: Path) -> None:
    import imageio_ffmpeg

    path.touch()  # an error of ffmpeg's would say less
    first = next(frames)
    height, width = first.shape[:2]
    even = (width + width % 2, height + height % 2)  # H.264 halves the resolution of colours
    margin = ((0, height % 2), (0, width % 2), (0, 0))
    fps, mp4 = 1000 / _FRAME_MILLISECONDS, ["-f", "mp4"]
    writer = imageio_ffmpeg.write_frames(
        path, even, fps=fps, macro_block_size=1, ffmpeg_log_level="error", output_params=mp4
    )
    writer.send(None)
    try:
        for frame in chain([first], frames):
            writer.send(np.ascontiguousarray(np.pad(frame, margin, mode="edge")))
    finally:
        writer.close()
