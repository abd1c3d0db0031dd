"""A user's own algorithm: the examples of docs/own-algorithm.md as they stand there, and every way to break one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import matrpo.algorithms
from matrpo.build import algorithm_class, build_algorithm
from matrpo.envs.registry import make_env
from matrpo.errors import ConfigError
from matrpo.launch.cli import cli
from matrpo.launch.commands.options import check_used
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import resolve
from matrpo.training import CentralTraining

GUIDE = Path(__file__).parents[2] / "docs" / "own-algorithm.md"
TINY = {"task": "mpe2/simple_spread_v3", "agents": 3, "num_envs": 4, "rollout_length": 25, "hidden_sizes": [8]}


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def matrpo_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "matrpo.launch.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


def train(folder: Path, algo: str, steps: int = 200, **changes: object) -> RunDirectory:
    config = resolve(("test", {**TINY, "algo": algo, "steps": steps, "tensorboard": False, **changes}))
    run = RunDirectory.create(folder, config, {})
    CentralTraining(run).run(lambda: False, lambda _: None)
    return run


def test_the_guide_s_algorithm_trains_resumes_and_is_evaluated(tmp_path: Path) -> None:
    """By the file's relative path, then from another folder."""
    file = write(tmp_path, example("penalty"))
    settings = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    launch = ["launch", "--algo", "mine.py:KLPenalisedHAPPO", "--run", "run", "--steps=200", *settings]
    done = matrpo_command(tmp_path, *launch)
    assert done.returncode == 0, done.stderr
    assert f"algo: {file}:KLPenalisedHAPPO" in (tmp_path / "run" / "config.yaml").read_text()

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = matrpo_command(elsewhere, "launch", "--run", str(tmp_path / "run"), "--resume", "--steps=400")
    assert done.returncode == 0, done.stderr
    assert RunDirectory.open(tmp_path / "run").latest_common_iteration() == 4
    evaluated = CliRunner().invoke(cli, ["eval", str(tmp_path / "run"), "--episodes", "5", "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)["episodes"] == 5


def test_its_penalty_holds_the_policy_back(tmp_path: Path) -> None:
    """The same file without the penalty moves further."""
    penalised = write(tmp_path, example("penalty"))
    free = write(tmp_path, example("penalty").replace("coefficient=3.0", "coefficient=0.0"), "free.py")
    moved = []
    for file in (penalised, free):
        algo = f"{file}:KLPenalisedHAPPO"
        run = train(tmp_path / file.stem, algo, steps=100, actor_lr=0.01, policy_epochs=30)
        start = build_algorithm(make_env(TINY["task"], 3, 1, 0), run.config)
        end = build_algorithm(make_env(TINY["task"], 3, 1, 0), run.config)
        end.load_checkpoint(run, 1)
        observations = torch.randn(200, 18, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            old, new = (p.own_head_of(p.network(observations)) for p in (start.policies[0], end.policies[0]))
            moved.append(float(old.kl_to(new).mean()))
    assert 0 < 2 * moved[0] < moved[1]


def test_the_guide_s_drift_trains(tmp_path: Path) -> None:
    file = write(tmp_path, example("drift"))
    run = train(tmp_path / "run", f"{file}:LogRatioHAPPO", clip_range=0.5)
    assert run.latest_common_iteration() == 2


def test_the_guide_s_drift_is_one(tmp_path: Path) -> None:
    """Never negative, and zero with zero gradient where the policies are equal."""
    file = write(tmp_path, example("drift"))
    drift = algorithm_names.user_file(f"{file}:LogRatioDrift").load("class")(2.0)
    ratio = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    values = drift(ratio, None, None, None)
    (gradient,) = torch.autograd.grad(values.sum(), ratio)
    assert values.tolist() == pytest.approx([0.480453, 0.0, 0.480453], abs=1e-5)
    assert gradient[1] == 0


def test_one_file_and_one_line_make_it_one_of_the_package_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, example("penalty") + example("reads"), "klhappo.py")
    line = eval(f"{{{example('line')}}}", vars(algorithm_names))
    monkeypatch.setattr(algorithm_names, "ALGORITHMS", algorithm_names.ALGORITHMS | line)
    monkeypatch.setattr(matrpo.algorithms, "__path__", [*matrpo.algorithms.__path__, str(tmp_path)])
    assert algorithm_class("klhappo").__name__ == "KLPenalisedHAPPO"
    run = train(tmp_path / "run", "klhappo")
    assert RunDirectory.open(run.path).config.algo == "klhappo"
    check_used("klhappo", ["policy_epochs", "agent_order"], "here")
    with pytest.raises(ConfigError, match="klhappo does not use the setting 'clip_range'"):
        check_used("klhappo", ["clip_range"], "here")


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path, example("penalty"), "a_neighbour_of_the_algorithm.py")
    file = write(tmp_path, "from a_neighbour_of_the_algorithm import KLPenalisedHAPPO")
    assert algorithm_class(f"{file}:KLPenalisedHAPPO").__name__ == "KLPenalisedHAPPO"


def test_the_name_holds_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "")
    monkeypatch.chdir(tmp_path)
    names = ("mine.py:Mine", "./mine.py:Mine", f"{file}:Mine")
    assert {algorithm_names.canonical_name(name) for name in names} == {f"{file}:Mine"}
    assert algorithm_names.canonical_name("happo") == "happo"


HEAD = "from matrpo.algorithms.shared.haml import HAML\n"
BROKEN = {
    "a syntax error": ("class Mine(:\n", ["SyntaxError", "mine.py, line 1"]),
    "a failing import": (
        "x = 1\nimport no_such_module\n",
        ["importing the file", "ModuleNotFoundError", "(line 2)"],
    ),
    "an exit": ("import sys\nsys.exit('bye')\n", ["SystemExit", "bye"]),
    "no such class": ("class Yours: ...\n", ["no class 'Mine'"]),
    "a number": ("Mine = 3\n", ["no class 'Mine'"]),
    "a function": ("def Mine(): ...\n", ["no subclass of matrpo.algorithms.shared.algorithm.Algorithm"]),
    "another class": ("class Mine: ...\n", ["no subclass of matrpo.algorithms.shared.algorithm.Algorithm"]),
    "no mirror": (HEAD + "class Mine(HAML): ...\n", ["the class has no method mirror"]),
    "a raising constructor": (
        HEAD + "class Mine(HAML):\n    def __init__(self, *a):\n        1 / 0\n    def mirror(self): ...\n",
        ["its constructor raised ZeroDivisionError", "(line 4)"],
    ),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_clear_line(text: str, words: list[str], tmp_path: Path) -> None:
    file = write(tmp_path, text)
    config = resolve(("test", {**TINY, "algo": f"{file}:Mine"}))
    with pytest.raises(ConfigError) as caught:
        build_algorithm(make_env(TINY["task"], 3, 1, 0), config)
    assert "\n" not in str(caught.value)
    for word in ("algo", str(file), *words):
        assert word in str(caught.value)


def test_a_missing_file_and_a_missing_class_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"algo: there is no file {tmp_path}/nowhere.py"):
        algorithm_class(f"{tmp_path}/nowhere.py:Mine")
    with pytest.raises(ConfigError, match=r"name the class too, as in nowhere\.py:Mine"):
        algorithm_names.canonical_name("nowhere.py")
