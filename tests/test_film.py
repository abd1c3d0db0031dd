"""Films: what is written is what was drawn."""

import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from matrpo.errors import ConfigError
from matrpo.film import check_film_name, save_film

HEIGHT, WIDTH, FRAMES = 61, 80, 7


def frames(number: int = FRAMES) -> Iterator[np.ndarray]:
    """Grey pictures, each brighter than the one before."""
    for index in range(number):
        yield np.full((HEIGHT, WIDTH, 3), 30 * index, dtype=np.uint8)


def test_a_gif_holds_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    assert save_film(frames(), path) == FRAMES
    with Image.open(path) as film:
        assert (film.n_frames, film.size) == (FRAMES, (WIDTH, HEIGHT))
        for index in range(FRAMES):
            film.seek(index)
            assert film.convert("L").getpixel((5, 5)) == 30 * index


def test_an_mp4_holds_every_frame_with_its_sides_made_even(tmp_path: Path) -> None:
    path = tmp_path / "film.MP4"
    assert save_film(frames(), path) == FRAMES
    reader = imageio_ffmpeg.read_frames(path)
    assert next(reader)["size"] == (WIDTH, HEIGHT + 1)
    pictures = [np.frombuffer(picture, np.uint8) for picture in reader]
    assert [round(float(picture.mean()) / 30) for picture in pictures] == list(range(FRAMES))


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_film_of_one_frame_is_a_film(tmp_path: Path, name: str) -> None:
    assert save_film(frames(1), tmp_path / name) == 1
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_film_that_breaks_off_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")

    def broken() -> Iterator[np.ndarray]:
        yield from frames(2)
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        save_film(broken(), tmp_path / name)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_a_place_that_cannot_be_written_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot write /proc/{name}"):
        save_film(frames(), Path("/proc") / name)


def test_other_endings_are_refused_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.gif or \.mp4"):
        check_film_name(Path("film.avi"))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    check_film_name(Path("film.gif"))
    with pytest.raises(ConfigError, match=r"pip install 'matrpo\[render\]', or name a \.gif"):
        check_film_name(Path("film.mp4"))


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_pictures_of_different_sizes_are_refused(tmp_path: Path, name: str) -> None:
    sizes = ((4, 6, 3), (4, 6, 3), (4, 8, 3))
    with pytest.raises(
        ConfigError, match=r"picture 3 has shape \(4, 8, 3\), the first \(4, 6, 3\); expected one size$"
    ):
        save_film((np.zeros(size, np.uint8) for size in sizes), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
