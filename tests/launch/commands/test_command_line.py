"""What the command line accepts, refuses and prints, short of training."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from running import Matrpo, assert_mistake

from matrpo.decentralized.matrpo import MATRPO
from matrpo.errors import ConfigError
from matrpo.launch.commands.launch import LaunchMode, check_device
from matrpo.launch.commands.options import resolve_layers
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import FIELDS, HEADINGS, Config
from matrpo.version import __version__

pytestmark = pytest.mark.usefixtures("here")


def number(num_agents: int | None, num_envs: int, seed: int) -> int:
    """The factory of a task that is none."""
    del num_agents, num_envs
    return seed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "navigaton"], ["task", "navigaton", "did you mean 'navigation'"]),
        (["--task", "chess"], ["task", "matrpo list tasks"]),
        (["--task", "mpe2/simple_tug_v3"], ["did you mean 'mpe2/simple_tag_v3'"]),
        (["--task", "nowhere.py:make"], ["there is no file", "nowhere.py"]),
        (["--task", "nowhere.py"], ["nowhere.py:make"]),
        (["--task", f"{__file__}:nothing"], [__file__, "no function 'nothing'"]),
        (["--task", f"{__file__}:number"], ["of type int", "expected a VectorEnv"]),
        (["--task", "pettingzoo/no_such_module:parallel_env"], ["no_such_module"]),
        (["--task", "pettingzoo/mpe2.simple_v3:nothing"], ["mpe2.simple_v3", "no constructor 'nothing'"]),
        (["--task", "pettingzoo/mpe2.simple_v3:env"], ["act in turn (AEC)"]),
        (["--task", "pettingzoo/mpe2.simple_v3"], ["pettingzoo/<module>:<name>"]),
        (["--task", "game/opposite-halves", "--agents", "3"], ["agents", "an even number"]),
        (["--topology", "rings"], ["topology", "ring"]),
        (["--topology", "grid:5x5"], ["topology", "12"]),
        (["--algo", "fdmarl", "--topology", "rings"], ["topology", "ring"]),
        (["--algo", "itrpo", "-o", "share_parameters=true"], ["itrpo", "share_parameters"]),
        (["--topology", "nowhere.json"], ["topology", "nowhere.json"]),
        (["--agents", "1"], ["ring", "1"]),
        (["--agents", "0"], ["agents", "at least 1"]),
        (["--agents", "many"], ["agents", "an integer"]),
        (["--kl-step", "0"], ["kl_step", "above 0"]),
        (["--kl-step", "nan"], ["kl_step", "finite"]),
        (["--gamma", "1.5"], ["gamma", "at most 1"]),
        (["--seed", "-1"], ["seed", "at least 0"]),
        (["--hidden-sizes", "128,x"], ["hidden_sizes", "list of integers"]),
        (["--recurrent-layers", "1", "--chunk-length", "7"], ["chunk_length", "7", "divisor of rollout_length, 100"]),
        (["--activation", "sela"], ["activation", "did you mean 'selu'"]),
        (["--steps", "[1"], ["--steps", "not valid YAML"]),
        (["-o", "kl_stp=1"], ["kl_stp", "did you mean 'kl_step'"]),
        (["-o", "kl_step"], ["key=value"]),
        (["--kl-stp", "1"], ["--kl-stp", "--kl-step"]),
        (["--preset", "nonsense"], ["preset", "nonsense"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["--transport", "tcp", "--port", "65000", "--agents", "600"], ["65535"]),
        (["--resume"], ["--resume", "--run"]),
        (["--run", "nowhere", "--resume"], ["nowhere", "not a run directory"]),
        (["--run", "/proc/nowhere"], ["cannot create run directory /proc/nowhere"]),
        (["--run", "/dev/null/run"], ["cannot create run directory", "Not a directory"]),
        (["--algo", "hapo"], ["algo", "hapo", "did you mean 'happo'"]),
        (["--algo", "happo", "--beta", "1"], ["happo does not use the setting 'beta' (command line)"]),
        (["--algo", "happo", "-o", "kl_step=0.1"], ["happo does not use the setting 'kl_step' (-o)"]),
        (["--algo", "mappo", "--topology", "ring"], ["mappo does not use the setting 'topology'"]),
        (["--algo", "mappo", "--transport", "tcp"], ["mappo does not use the setting 'transport'"]),
        (["--algo", "hatrpo", "--clip-range", "0.1"], ["hatrpo does not use the setting 'clip_range'"]),
        (["--actor-lr", "0.1"], ["matrpo does not use the setting 'actor_lr'"]),
        (["--algo", "happo", "--faults", "loss-20"], ["--faults", "happo trains in one process"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_launch_refuses(matrpo: Matrpo, arguments: list[str], words: list[str]) -> None:
    assert_mistake(matrpo("launch", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense"]),
        (["eval"], ["RUN"]),
        (["eval", "nowhere"], ["nowhere is not a run directory"]),
        (["eval", "nowhere", "--episodes", "0"], ["episodes", "0"]),
        (["status", "nowhere"], ["nowhere is not a run directory"]),
        (["topology", "rings"], ["ring"]),
        (["topology", "ring", "--agents", "3", "--save", "x.pdf"], ["x.pdf"]),
        (["list", "agents"], ["agents", "tasks"]),
        (["cluster", "init", "--algo", "happo", "--host", "a", "--env-host", "b"], ["happo", "in one process"]),
        (["agent", "--cluster", "nowhere.yaml", "--id", "0"], ["cannot read cluster file nowhere.yaml"]),
        (["env-server"], ["--cluster"]),
    ],
)
def test_other_commands_refuse(matrpo: Matrpo, arguments: list[str], words: list[str]) -> None:
    assert_mistake(matrpo(*arguments), *words)


def test_a_config_with_a_typo_names_the_nearest_key(matrpo: Matrpo, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("agents: 3\nrolout_length: 5\n")
    assert_mistake(matrpo("launch", "--config", str(file)), "rolout_length", str(file), "did you mean 'rollout_length'")
    file.write_text("agents: [\n")
    assert_mistake(matrpo("launch", "--config", str(file)), str(file), "not valid YAML")


def test_a_graph_that_is_not_connected_is_refused(matrpo: Matrpo, tmp_path: Path) -> None:
    file = tmp_path / "two.edgelist"
    file.write_text("0 1\n2 3\n")
    assert_mistake(matrpo("launch", "--agents", "4", "--topology", str(file)), "not connected")


def test_a_port_in_use_is_refused(matrpo: Matrpo) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["--transport", "tcp", "--agents", "3", "--port", str(port - 2)]
        assert_mistake(matrpo("launch", *arguments), f"port {port}", "in use")


def test_an_existing_run_directory_is_refused(matrpo: Matrpo, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert_mistake(matrpo("launch", "--run", str(tmp_path / "run")), "exists already", "--resume")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """The system refuses to let any file grow beyond 64 kB, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_refused(matrpo: Matrpo) -> None:
    assert_mistake(matrpo("launch"), "cannot create run directory", "File too large")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of two agents with checkpoints that belong to nothing known."""
    run = RunDirectory.create(tmp_path / "run", Config(agents=3, seed=3), {})
    for process in run.processes().values():
        process.save_checkpoint(5, {"x": np.zeros(1)}, {"belongs_to": {"algo": "matrpo", "task": "chess"}})
        process.log_metrics({"iteration": 5, "time": 0.0, "team_return_mean": -5.0, "kl": 0.25})
    return run


@pytest.mark.parametrize("command", [["launch", "--resume", "--run"], ["eval"]])
def test_a_checkpoint_of_another_task_is_refused(matrpo: Matrpo, run: RunDirectory, command: list[str]) -> None:
    assert_mistake(matrpo(*command, str(run.path)), "checkpoint 5", "task is chess", "navigation")
    assert run.latest_common_iteration() == 5


@pytest.mark.parametrize("key", sorted(set(FIELDS) - {"agents", "algo"}))
def test_a_resumed_run_keeps_its_settings(matrpo: Matrpo, run: RunDirectory, key: str) -> None:
    others = {"task": "mpe2/simple_spread_v3", "topology": "line", "activation": "tanh", "hidden_sizes": "[8, 8]"}
    others |= {"env_servers": "2", "device": "auto"}
    default = FIELDS[key].default
    other = others.get(key)
    if other is None and FIELDS[key].metadata["choices"]:
        other = next(choice for choice in FIELDS[key].metadata["choices"] if choice != default)
    if other is None:
        other = (
            str(not default).lower() if isinstance(default, bool) else "0.625" if isinstance(default, float) else "7"
        )
    result = matrpo("launch", "--run", str(run.path), "--resume", "-o", f"{key}={other}")
    changeable = (
        "steps", "link_deadline", "link_resend", "transport", "port", "insecure", "torch_threads", "checkpoint_every",
        "checkpoints_kept", "tensorboard", "tracker", "on_agent_loss", "agent_deadline", "env_workers", "device",
    )  # fmt: skip
    if key not in MATRPO.settings_read:
        assert_mistake(result, f"matrpo does not use the setting '{key}'")
    elif key in changeable:
        assert_mistake(result, "task is chess")
    else:
        assert_mistake(result, f"cannot change '{key}'")


def test_a_run_in_use_is_refused(matrpo: Matrpo, run: RunDirectory) -> None:
    with run.lock():
        assert_mistake(matrpo("launch", "--run", str(run.path), "--resume"), "in use")


def test_a_run_without_a_checkpoint_cannot_be_evaluated(matrpo: Matrpo, tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "new", Config(agents=3), {})
    assert_mistake(matrpo("eval", str(tmp_path / "new")), "no checkpoint")


def test_an_agent_that_is_not_in_the_cluster_is_refused(matrpo: Matrpo, run: RunDirectory) -> None:
    agents = {0: {"endpoint": "tcp://127.0.0.1:1", "neighbours": []}}
    content = {"run_id": "x", "config": "config.yaml", "environment": {"endpoint": "ipc:///tmp/x"}, "agents": agents}
    file = run.path / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    assert_mistake(matrpo("agent", "--cluster", str(file), "--id", "0"), "has no keys", "--insecure")
    assert_mistake(matrpo("agent", "--cluster", str(file), "--id", "1", "--insecure"), "--id 1", "agents 0 to 0")


def test_version(matrpo: Matrpo) -> None:
    assert matrpo("--version") == (0, f"matrpo {__version__}\n", "")


def test_no_command_shows_the_help(matrpo: Matrpo) -> None:
    status, out, err = matrpo()
    assert (status, out) == (2, "")
    for command in ("launch", "agent", "env-server", "eval", "status", "topology", "list"):
        assert command in err


def test_every_setting_is_an_option_with_its_help(matrpo: Matrpo) -> None:
    status, out, _ = matrpo("launch", "--help")
    assert status == 0
    for name in FIELDS:
        assert f"--{name.replace('_', '-')}" in out
    for section in set(HEADINGS.values()):
        assert f"\n{section}:\n" in out


def test_the_doctor_names_the_graphics_cards(matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "ok   no CUDA device: networks learn on the processor\n" in matrpo("doctor")[2]
    cards = [SimpleNamespace(name=name, total_memory=gib * 2**30) for name, gib in (("Fast One", 139), ("Old One", 8))]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert "ok   CUDA devices: Fast One (139 GiB), Old One (8 GiB)\n" in matrpo("doctor")[2]


def test_any_device_will_do_for_the_check_of_a_central_algorithm(matrpo: Matrpo, tmp_path: Path) -> None:
    sizes = ["--num-envs", "2", "--rollout-length", "5", "--steps", "10", "-o", "hidden_sizes=[4]", "--no-tensorboard"]
    options = ["--task", "game/miscoordination", "--algo", "happo", "--device", "auto", "--run", str(tmp_path / "run")]
    status, _, err = matrpo("launch", *options, *sizes)
    assert status == 0, err


@pytest.mark.parametrize(
    "options", [[], ["--in-process"], ["--algo", "mappo"], ["--algo", "qmix"], ["-o", "device=cuda", "--faults", "x"]]
)
def test_a_graphics_card_that_is_not_there_is_refused(
    matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    task = ["--task", "mpe2/simple_spread_v3", "--agents", "3"]
    assert_mistake(matrpo("launch", *task, "--device", "cuda", *options), "'cuda' for 'device'", "sees no CUDA device")


def test_a_run_is_not_continued_on_a_graphics_card_that_is_not_there(
    matrpo: Matrpo, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = matrpo("launch", "--run", run.path, "--resume", "--device", "cuda")
    assert_mistake(result, "sees no CUDA device")
    assert RunDirectory.open(run.path).config.device == "cpu"


def test_a_ray_cluster_gives_no_graphics_cards() -> None:
    config = resolve_layers([("command line", {"device": "cuda"})])
    with pytest.raises(ConfigError, match=r"--backend ray: .* leave --device cuda out"):
        check_device(config, LaunchMode(in_process=False, restart=None, ray=True, ray_address=None))


def test_two_agents_are_on_a_line_unless_something_else_is_asked_for() -> None:
    layers = [("command line", {"task": "game/differentiable"})]
    assert (resolve_layers(layers).agents, resolve_layers(layers).topology) == (2, "line")
    assert resolve_layers([*layers, ("-o", {"topology": "ring"})]).topology == "ring"
    assert resolve_layers([("command line", {})]).topology == "ring"


def test_topology_prints_links_and_saves_a_picture(matrpo: Matrpo) -> None:
    status, out, _ = matrpo("topology", "ring", "--agents", "4")
    assert status == 0
    assert out.splitlines()[0] == "link 0: 0 - 1"
    assert "4 links, algebraic connectivity 2.0000" in out
    assert (Path.cwd() / "ring-4.png").read_bytes().startswith(b"\x89PNG")


def test_topology_as_json_saves_what_launch_reads(matrpo: Matrpo) -> None:
    status, out, err = matrpo("topology", "small-world:4:0.5", "--agents", "9", "--json", "--save", "graph.json")
    assert (status, err) == (0, "")
    links = json.loads(out)["links"]
    status, out, _ = matrpo("topology", "graph.json", "--agents", "9", "--json", "--save", "again.graphml")
    assert json.loads(out)["links"] == links


def test_status_reads_a_run(matrpo: Matrpo, run: RunDirectory) -> None:
    status, out, err = matrpo("status", str(run.path), "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert (summary["iteration"], summary["checkpoint"], summary["return_mean"]) == (5, 5, -5.0)
    assert (summary["running"], summary["finished"]) == (False, False)
    assert [process["name"] for process in summary["processes"]] == ["env-server", "agent 0", "agent 1", "agent 2"]
    assert summary["processes"][1]["last"]["kl"] == 0.25
    status, out, _ = matrpo("status", str(run.path))
    assert status == 0
    assert "checkpoint of iteration 5" in out


@pytest.mark.parametrize("large", ["--num-envs", "--rollout-length"], ids=["numpy's array", "torch's tensor"])
def test_more_than_the_memory_holds_is_one_line(matrpo: Matrpo, large: str) -> None:
    """More than any address space holds, so that it is refused everywhere."""
    sizes = {"--num-envs": 1, "--rollout-length": 10, "--agents": 3, large: 10**16}
    given = [f"{flag}={size}" for flag, size in sizes.items()]
    status, _, err = matrpo("launch", "--run", "run", "--in-process", "--steps", 10**18, *given)
    assert status == 1
    assert err.splitlines()[-1].startswith("matrpo: error: not enough memory: ")
    assert "lower --num-envs or --rollout-length" in err
    assert "Traceback" not in err
