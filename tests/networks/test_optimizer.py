"""The optimiser is torch's Adam to the bit, and leaves torch's compiler out of a run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matrpo.networks.optimizer import make_adam, step_along

RUN = """
import sys
from pathlib import Path
from matrpo.settings.config import resolve
from matrpo.runs.run_directory import RunDirectory
from matrpo.training import make_training

sizes = {"agents": 3, "num_envs": 2, "rollout_length": 5, "steps": 20}
settings = {"algo": sys.argv[1], "task": "mpe2/simple_spread_v3", **sizes}
run = RunDirectory.create(Path(sys.argv[2]), resolve(("test", settings)), {})
make_training(run).run(lambda: False, lambda _: None)
sys.exit("torch._dynamo" in sys.modules)
"""


def make_parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(5, 3), (3,)]]


def descend(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum((parameter.sin() ** 2).sum() for parameter in parameters)
        torch.as_tensor(loss).backward()
        optimizer.step()


@pytest.mark.parametrize("eps", [1e-8, 1e-5])
def test_it_steps_as_torchs_own_and_goes_on_from_a_saved_state(eps: float) -> None:
    ours, theirs = make_parameters(), make_parameters()
    adam = make_adam(ours, lr=0.01, eps=eps)
    expected = torch.optim.Adam(theirs, lr=0.01, eps=eps, fused=True)
    descend(adam, ours, 3)
    descend(expected, theirs, 6)
    again = make_adam(ours, lr=1.0)
    again.load_state_dict(adam.state_dict())
    descend(again, ours, 3)
    for left, right in zip(ours, theirs, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("longest", [None, 0.1])
def test_a_step_along_given_gradients_is_adams_however_they_lie_in_memory(longest: float | None) -> None:
    ours, theirs = make_parameters(), make_parameters()
    adam, expected = make_adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01, foreach=False, fused=False)
    for _ in range(2):
        for left, right in zip(ours, theirs, strict=True):
            right.grad = left.detach().sin()
        step_along(adam, [right.grad.t().contiguous().t() for right in theirs if right.grad is not None], longest)
        if longest is not None:
            torch.nn.utils.clip_grad_norm_(theirs, longest)
        expected.step()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("algo", ["matrpo", "happo"])
def test_a_run_does_not_import_the_compiler(algo: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RUN, algo, tmp_path / "run"], check=True)
