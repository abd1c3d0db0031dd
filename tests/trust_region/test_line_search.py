"""The line search: which fraction it takes, what it says of it, and where it leaves the parameters."""

import pytest
import torch

from matrpo.trust_region.line_search import Reached, line_search

BEFORE, CHANGE = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 0.0, -4.0])


@pytest.mark.parametrize(
    ("largest", "expected"), [(1.0, 1.0), (0.6, 0.5), (0.25, 0.25), (0.2, 0.125), (0.1, 0.0)], ids=str
)
def test_the_largest_accepted_fraction_is_taken_and_none_if_all_are_refused(largest: float, expected: float) -> None:
    parameters, tried = [torch.zeros(2), torch.zeros(1)], []

    def evaluate() -> tuple[float, float]:
        moved = float(parameters[0][0]) - 1.0
        return moved, 10.0 * moved

    def accepts(reached: Reached) -> bool:
        tried.append(reached.fraction)
        return reached.fraction <= largest

    reached = line_search(parameters, BEFORE, CHANGE, evaluate, accepts, limit=3, factor=0.5)
    assert reached == Reached(expected, 4.0 * expected, 40.0 * expected)
    assert torch.equal(torch.cat(parameters), BEFORE + expected * CHANGE)
    assert tried == [0.5**j for j in range(4) if j == 0 or 0.5 ** (j - 1) > largest]
