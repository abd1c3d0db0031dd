"""Every file and folder of the code that a page names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/*.md")]
PLACE = re.compile(r"(?<![\w./<-])((?:matrpo|launch|topology|experiments|tests)/[\w./-]*\w/?)(?![\w<*{/])")
RUNS = ("experiments/results/",)
"""Where figures leave what is not kept."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_that_a_page_names_exists(page: Path) -> None:
    named = {place for place in PLACE.findall(page.read_text()) if not place.startswith(RUNS)}
    assert not sorted(place for place in named if not (ROOT / place).exists())
