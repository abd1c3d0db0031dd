from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from matrpo.errors import ConfigError
from matrpo.launch.screen.picture import save_picture
from matrpo.topology import make_graph

GRAPHS = [
    ("ring", 12),
    ("line", 14),
    ("star", 5),
    ("complete", 6),
    ("none", 1),
    ("none", 3),
    ("grid:3x4", 12),
    ("torus", 12),
    ("random-regular", 12),
    ("erdos-renyi", 12),
    ("small-world", 50),
]


@pytest.mark.parametrize(("spec", "n"), GRAPHS)
def test_every_family_can_be_drawn(tmp_path: Path, spec: str, n: int) -> None:
    path = tmp_path / "graph.png"
    save_picture(make_graph(spec, n, 0), path)
    assert [p.name for p in tmp_path.iterdir()] == ["graph.png"]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert (pixels == (0x00, 0x72, 0xB2)).all(axis=-1).sum() > 50 * n, "agents are blue discs"


def test_svg_holds_a_disc_per_agent_and_a_path_per_link(tmp_path: Path) -> None:
    path = tmp_path / "ring.SVG"
    save_picture(make_graph("ring", 12, 0), path)
    root = ElementTree.parse(path).getroot()
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    ids = [element.get("id", "") for element in root.iter()]
    discs = next(e for e in root.iter() if e.get("id") == "PathCollection_1")
    assert tags[0] == "svg"
    assert sum(1 for e in discs.iter() if e.tag.endswith("}use")) == 12
    assert sum(1 for name in ids if name.startswith("patch_")) == 12 + 1, "the links and the background"
    assert sum(1 for name in ids if name.startswith("text_")) == 12 + 1, "the agents' ids and the title"


def test_a_graph_from_a_file_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "grid.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
    save_picture(make_graph(str(tmp_path / "grid.txt"), 4, 0), tmp_path / "grid.png")
    assert (tmp_path / "grid.png").exists()


def test_mistakes_are_config_errors(tmp_path: Path) -> None:
    graph = make_graph("ring", 3, 0)
    with pytest.raises(ConfigError, match=r"the suffix must be one of \.png, \.svg"):
        save_picture(graph, tmp_path / "ring.gif")
    with pytest.raises(ConfigError, match=r"cannot write picture .*: No such file"):
        save_picture(graph, tmp_path / "absent" / "ring.png")
    assert list(tmp_path.iterdir()) == []
