"""A run as Kubernetes' objects: they are valid, keep secrets, let neighbours talk, and their commands make a run."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from running import TINY, checkpoints, train, wait_for

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.engines.kubernetes import preparation

SETTINGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
POD = "statefulset.kubernetes.io/pod-name"


@pytest.fixture
def render(matrpo, tmp_path):
    """Renders a run of so many agents; gives its run directory."""

    def make(agents, *options):
        run = tmp_path / "run"
        given = ("--image", "matrpo:test", "--name", "team", "--agents", agents, "--out", run)
        status, _, errors = matrpo("cluster", "render", "kubernetes", *given, *SETTINGS, *options)
        assert status == 0, errors
        assert f"kubectl apply -f {run}/kubernetes" in errors
        return run

    return make


def documents(run):
    """All objects, by kind and name."""
    files = sorted((run / "kubernetes").glob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_the_objects_are_valid(render, version, servers):
    found = documents(render(3, "--env-servers", servers))
    kinds = [kind for kind, _ in found]
    assert sorted(set(kinds)) == ["ConfigMap", "NetworkPolicy", "Secret", "Service", "StatefulSet"]
    assert kinds.count("StatefulSet") == 2
    assert kinds.count("NetworkPolicy") == 3 + servers
    for document in found.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_refuses_what_is_not_valid(render):
    wrong = documents(render(3))["StatefulSet", "team-agent"]
    wrong["spec"]["podManagementPolicy"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_secret_keys_are_in_the_secret_alone(render):
    run = render(3, "--env-servers", 2)
    keys = {file.stem: file.read_text() for file in (run / "keys").iterdir()}
    secret = documents(run)["Secret", "team-keys"]
    given = {pod: base64.b64decode(value).decode() for pod, value in secret["data"].items()}
    agents = {f"team-agent-{q}": keys[f"agent-{q:02d}"] for q in range(3)}
    assert given == {"team-env-0": keys["env"], "team-env-1": keys["env"], **agents}
    assert (run / "kubernetes" / "keys.yaml").stat().st_mode & 0o077 == 0
    for file in (run / "kubernetes").iterdir():
        text = file.read_text()
        assert not any(key.strip() in text for key in keys.values())
        assert file.name == "keys.yaml" or not any(code in text for code in secret["data"].values())


@pytest.mark.parametrize("name", ["team-agent", "team-env"])
def test_a_pod_has_its_own_key_alone_and_no_rights(render, name):
    pod = documents(render(3))["StatefulSet", name]["spec"]["template"]["spec"]
    (prepare,), (main,) = pod["initContainers"], pod["containers"]
    mounts = {mount["name"]: mount for mount in prepare["volumeMounts"]}
    assert mounts["keys"]["subPathExpr"] == "$(POD_NAME)"
    assert "keys" not in {mount["name"] for mount in main["volumeMounts"]}
    for container in (prepare, main):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert pod["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize(("topology", "num_servers"), [("ring", 1), ("star", 1), ("complete", 1), ("ring", 2)])
def test_the_network_lets_neighbours_and_environment_servers_talk_and_nobody_else(render, topology, num_servers):
    run = render(5, "--topology", topology, "--env-servers", num_servers)
    cluster, found = Cluster.load(run / "cluster.yaml"), documents(run)
    agents, servers = [f"team-agent-{q}" for q in range(5)], [f"team-env-{k}" for k in range(num_servers)]
    pods = [*agents, *servers]
    policies = {pod: found["NetworkPolicy", pod]["spec"] for pod in pods}

    def selected(selector):
        labels = dict(selector["podSelector"]["matchLabels"])
        assert labels["app.kubernetes.io/instance"] == "team"
        if POD in labels:
            return {labels[POD]}
        assert labels["app.kubernetes.io/component"] == "agent"
        return set(agents)

    def peers(pod, direction, side):
        rules = [rule for rule in policies[pod][direction] if side in rule]
        return {
            (peer, port["port"])
            for rule in rules
            for selector in rule[side]
            for peer in selected(selector)
            for port in rule["ports"]
        }

    leaving = {(pod, peer, port) for pod in pods for peer, port in peers(pod, "egress", "to")}
    coming = {(peer, pod, port) for pod in pods for peer, port in peers(pod, "ingress", "from")}
    links = {(f"team-agent-{i}", f"team-agent-{j}", 5601) for i, j in cluster.graph.links}
    assert leaving == coming == links | {(agent, server, 5600) for agent in agents for server in servers}
    assert all(policies[pod]["policyTypes"] == ["Ingress", "Egress"] for pod in pods)


def test_names_in_the_cluster_file_are_those_of_the_pods_in_the_service(render):
    run = render(12)
    cluster, found = Cluster.load(run / "cluster.yaml"), documents(run)
    service, agents = found["Service", "team"]["spec"], found["StatefulSet", "team-agent"]["spec"]
    assert service["publishNotReadyAddresses"]
    assert agents["podManagementPolicy"] == "Parallel"
    assert agents["serviceName"] == found["StatefulSet", "team-env"]["spec"]["serviceName"] == "team"
    assert cluster.agents == tuple(f"tcp://team-agent-{q}.team:5601" for q in range(agents["replicas"]))
    assert cluster.servers[0] == "tcp://team-env-0.team:5600"
    config = found["ConfigMap", "team"]["data"]
    assert {name: (run / name).read_text() for name in config} == config


def test_a_pod_of_several_servers_finds_its_number_and_keeps_its_own_folder(render):
    run = render(3, "--env-servers", 2)
    assert Cluster.load(run / "cluster.yaml").servers == ("tcp://team-env-0.team:5600", "tcp://team-env-1.team:5600")
    spec = documents(run)["StatefulSet", "team-env"]["spec"]
    assert spec["replicas"] == 2
    (main,) = spec["template"]["spec"]["containers"]
    assert main["command"][-3:] == ["--id", "auto", "--managed"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert {"--env", "auto"} <= set(main[probe]["exec"]["command"])
    state = [mount for mount in main["volumeMounts"] if mount["name"] == "state"]
    folders = {mount["mountPath"]: mount["subPath"] for mount in state}
    assert folders == {"/var/lib/matrpo/run/env": "env", "/var/lib/matrpo/run/env-1": "env-1"}


def test_manifests_are_written_again_for_a_run_that_is_there(matrpo, render):
    run = render(3)
    before = documents(run)
    file = run / "cluster.yaml"
    assert matrpo("keys", "rotate", "--cluster", file)[0] == 0
    again = ("cluster", "render", "kubernetes", "--image", "matrpo:new", "--cluster", file)
    status, _, errors = matrpo(*again, "--name", "team")
    assert status == 0, errors
    after = documents(run)
    assert after.keys() == before.keys()
    assert after["Secret", "team-keys"] != before["Secret", "team-keys"]
    assert after["ConfigMap", "team"]["data"]["cluster.yaml"] == file.read_text()
    status, _, errors = matrpo(*again, "--name", "other")
    assert (status, "another name" in errors) == (2, True)
    status, _, errors = matrpo(*again, "--name", "team", "--steps", 10)
    assert (status, "leave the others out" in errors) == (2, True)


def by_hand(found, name: str, ordinal: int, home: Path, **places: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Prepare a pod of a StatefulSet in a folder; its start command, its environment and its readiness command."""
    pod = found["StatefulSet", name]["spec"]["template"]["spec"]
    given, run = home / "given", home / "run"
    (given / "config").mkdir(parents=True)
    run.mkdir()
    for file, text in found["ConfigMap", "team"]["data"].items():
        for place, local in places.items():
            text = text.replace(place, local)
        (given / "config" / file).write_text(text)
    key = base64.b64decode(found["Secret", "team-keys"]["data"][f"{name}-{ordinal}"])
    (given / "key").write_bytes(key)
    (script,) = pod["initContainers"][0]["command"][2:]
    assert script == preparation(name.removeprefix("team-"), "/given", "/var/lib/matrpo/run")
    script = script.replace("/given", str(given)).replace("/var/lib/matrpo/run", str(run))
    environment = {**os.environ, "POD_NAME": f"{name}-{ordinal}", "HOSTNAME": f"{name}-{ordinal}"}
    environment["KUBERNETES_SERVICE_HOST"] = "10.96.0.1"
    subprocess.run(["sh", "-euc", script], env=environment, check=True)
    container = pod["containers"][0]
    commands = [container["command"], container["readinessProbe"]["exec"]["command"]]
    python = [sys.executable, "-m", "matrpo.launch.cli"]
    start, ready = [
        [*python, *(part.replace("/var/lib/matrpo/run", str(run)) for part in command[1:])] for command in commands
    ]
    return start, environment, ready


def has_finished(pod):
    """Whether the process of a pod has nothing left to do but stay."""
    return any("INFO finished" in log.read_text() for log in (pod / "run").rglob("log.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 2])
def test_the_start_commands_by_hand_make_a_run_that_equals_a_launch(render, tmp_path, servers):
    """Each pod is a folder and a loopback address; environment servers come last, and all stay when it is over."""
    found = documents(render(3, "--topology", "line", "--env-servers", servers))
    names = [*(("team-agent", q) for q in range(3)), *(("team-env", k) for k in range(servers))]
    places = {f"{name}-{q}.team": f"127.0.0.{2 + q if name == 'team-agent' else 1 + 9 * q}" for name, q in names}
    pods = [by_hand(found, name, q, tmp_path / f"{name}-{q}", **places) for name, q in names]
    for _, environment, ready in pods:
        assert subprocess.run(ready, env=environment, capture_output=True).returncode == 2
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for command, environment, _ in pods
    ]
    wait_for(lambda: all(has_finished(tmp_path / f"{name}-{q}") for name, q in names), running[-1])
    for process, (_, environment, ready) in zip(running, pods, strict=True):
        assert subprocess.run(ready, env=environment, capture_output=True).returncode == 0
        process.terminate()
    said = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(pods), said
    arguments = ("--agents", "3", "--topology", "line", "--env-servers", str(servers))
    launched = train(tmp_path / "launched", *arguments)
    single = train(tmp_path / "single", *arguments, "--in-process")
    found_here = {}
    for name, q in names:
        found_here |= checkpoints(tmp_path / f"{name}-{q}" / "run")
    assert found_here == checkpoints(launched)
    of_one = {name: data for name, data in checkpoints(single).items() if name.startswith("agents")}
    assert of_one.items() <= found_here.items()


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        (["--name", "My_Run"], ["--name My_Run", "small letters"]),
        (["--name", "x" * 41], ["40"]),
        (["--cpu", "two"], ["--cpu two", "quantity"]),
        (["--memory", "1GB"], ["--memory 1GB"]),
        (["--insecure"], ["--insecure", "leave it out"]),
        (["--algo", "mappo"], ["mappo trains in one process"]),
        (["--transport", "ipc"], ["--transport ipc"]),
    ],
)
def test_mistakes_are_told_before_anything_is_written(matrpo, tmp_path, options, reasons):
    status, _, errors = matrpo("cluster", "render", "kubernetes", "--image", "i", "--out", tmp_path / "run", *options)
    assert status == 2
    assert all(reason in errors for reason in reasons)
    assert not (tmp_path / "run").exists()


def test_a_task_that_is_a_file_here_is_refused(matrpo, tmp_path):
    task = tmp_path / "task.py"
    task.write_text("from matrpo.envs.particle.navigation import NavigationEnv as make\n")
    given = ("--image", "i", "--out", tmp_path / "run", "--task", f"{task}:make", "--agents", 3)
    status, _, errors = matrpo("cluster", "render", "kubernetes", *given)
    assert status == 2
    assert "pods do not have this file" in errors
