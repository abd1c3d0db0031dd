"""Kubernetes manifests of a run: a StatefulSet of agents, one of environment servers, and the objects these need.

Kubernetes places, restarts and watches the processes. What flows between agents stays theirs: each has a name in a
headless service and a key of its own, and a network policy lets it talk to its neighbours and the environment servers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, port_of
from matrpo.launch.cluster.keys import key_path
from matrpo.runs.process_id import ProcessId, in_order_of_ports
from matrpo.runs.storage import write_crash_safely
from matrpo.settings.config import RunConfig

Object = dict[str, Any]

_RUN = "/var/lib/matrpo/run"
_GIVEN = "/given"
_USER = 10001
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")
_POD_NAME = "statefulset.kubernetes.io/pod-name"
_SECRET_MODE = 0o600

_STILL = 300
"""Seconds without a heartbeat after which the probes of a pod fail: more than it takes to fit a critic."""


@dataclass(frozen=True)
class Pods:
    """The user's options for the pods.

    Attributes:
        name: of the run; the objects' names begin with it.
        image: with matrpo in it.
        cpu, memory: requests of a process; the memory is its limit, too.
        storage: of a process's volume.

    Raises:
        ConfigError: Kubernetes would not take one of them.
    """

    name: str
    image: str
    cpu: str
    memory: str
    storage: str

    def __post_init__(self) -> None:
        """Validate the options."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"--name {self.name}: expected at most 40 small letters, digits and hyphens, and a letter first"
            )
        for option, quantity in (("cpu", self.cpu), ("memory", self.memory), ("storage", self.storage)):
            if not _QUANTITY.fullmatch(quantity):
                raise ConfigError(f"--{option} {quantity}: expected a quantity of Kubernetes, as 500m or 2Gi")


def endpoints(name: str, config: RunConfig) -> dict[ProcessId, str]:
    """The endpoint of every process, by its pod's DNS name in the run's headless service."""
    processes = in_order_of_ports(config.agents, config.env_servers)
    return {one: f"tcp://{_pod(name, one)}.{name}:{config.port + (not one.is_server)}" for one in processes}


def write_manifests(cluster: Cluster, pods: Pods) -> Path:
    """Write the manifests of a cluster into the folder `kubernetes` of its run directory.

    Returns:
        The folder.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = cluster.file.parent / "kubernetes"
    folder.mkdir(exist_ok=True)
    for file, objects in manifests(cluster, pods).items():
        text = yaml.safe_dump_all(objects, sort_keys=False)
        write_crash_safely(folder / file, text.encode(), mode=_SECRET_MODE if file == "keys.yaml" else 0o644)
    return folder


def manifests(cluster: Cluster, pods: Pods) -> dict[str, list[Object]]:
    """The objects of a run, by the name of the file that they belong into."""
    return {
        "config.yaml": [_config_map(cluster, pods)],
        "keys.yaml": [_secret(cluster, pods)],
        "service.yaml": [_service(cluster, pods)],
        "agents.yaml": [_stateful_set(pods, "agent", cluster.agents)],
        "environment.yaml": [_stateful_set(pods, "env", cluster.servers)],
        "network.yaml": _network_policies(cluster, pods),
    }


def _pod(name: str, process: ProcessId) -> str:
    return f"{name}-{'env' if process.is_server else 'agent'}-{process.number}"


def _labels(pods: Pods, component: str | None = None) -> dict[str, str]:
    labels = {"app.kubernetes.io/name": "matrpo", "app.kubernetes.io/instance": pods.name}
    return labels | ({"app.kubernetes.io/component": component} if component else {})


def _object(kind: str, version: str, name: str, pods: Pods, **content: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": _labels(pods)}, **content}


def _config_map(cluster: Cluster, pods: Pods) -> Object:
    files = (cluster.config, cluster.file)
    return _object("ConfigMap", "v1", pods.name, pods, data={file.name: file.read_text() for file in files})


def _secret(cluster: Cluster, pods: Pods) -> Object:
    """All secret keys, each under the name of its pod: a pod mounts its own alone."""
    keys = {_pod(pods.name, one): key_path(cluster.file, one).read_bytes() for one in cluster.processes}
    data = {pod: base64.b64encode(key).decode() for pod, key in keys.items()}
    return _object("Secret", "v1", f"{pods.name}-keys", pods, type="Opaque", data=data)


def _service(cluster: Cluster, pods: Pods) -> Object:
    """The headless service, which gives every pod a DNS name, even before it is ready."""
    ports = {"environment": cluster.servers[0], "agents": cluster.agents[0]}
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _labels(pods),
        "ports": [{"name": name, "port": port_of(endpoint)} for name, endpoint in ports.items()],
    }
    return _object("Service", "v1", pods.name, pods, spec=spec)


def _stateful_set(pods: Pods, component: str, own: Sequence[str]) -> Object:
    """The StatefulSet of a component, whose processes listen at the endpoints `own`."""
    name = f"{pods.name}-{component}"
    spec = {
        "serviceName": pods.name,
        "replicas": len(own),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": _labels(pods, component)},
        "template": {"metadata": {"labels": _labels(pods, component)}, "spec": _pod_spec(pods, component, own)},
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "state", "labels": _labels(pods, component)},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pods.storage}}},
            }
        ],
    }
    return _object("StatefulSet", "apps/v1", name, pods, spec=spec)


def _pod_spec(pods: Pods, component: str, own: Sequence[str]) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _labels(pods, component)},
            }
        ],
        "initContainers": [_preparation(pods, component)],
        "containers": [_process(pods, component, own)],
        "volumes": [
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "config", "configMap": {"name": pods.name}},
            {"name": "keys", "secret": {"secretName": f"{pods.name}-keys", "defaultMode": 0o440}},
        ],
    }


def _container(pods: Pods, name: str, **content: Any) -> Object:
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {"name": name, "image": pods.image, "securityContext": locked, **content}


def _preparation(pods: Pods, component: str) -> Object:
    """The init container: copies the settings and the pod's own key into the run directory, a volume in memory."""
    return _container(
        pods,
        "prepare",
        command=["sh", "-euc", preparation(component, _GIVEN, _RUN)],
        env=[{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        resources=_resources(pods),
        volumeMounts=[
            {"name": "run", "mountPath": _RUN},
            {"name": "config", "mountPath": f"{_GIVEN}/config", "readOnly": True},
            {"name": "keys", "mountPath": f"{_GIVEN}/key", "subPathExpr": "$(POD_NAME)", "readOnly": True},
        ],
    )


def preparation(component: str, given: str, run: str) -> str:
    """The shell commands with which the init container fills a pod's run directory.

    Args:
        component: `agent` or `env`.
        given: where the folder `config` and the file `key` are.
        run: the run directory.
    """
    key = "env" if component == "env" else 'agent-$(printf %02d "${POD_NAME##*-}")'
    return (
        "umask 077\n"
        f"cp {given}/config/config.yaml {given}/config/{FILE_NAME} {run}/\n"
        f"mkdir -p {run}/keys\n"
        f"cp {given}/key {run}/keys/{key}.key\n"
    )


def _process(pods: Pods, component: str, own: Sequence[str]) -> Object:
    """The container of one process, whose startup, liveness and readiness probes check its heartbeat."""
    file = ["--cluster", f"{_RUN}/{FILE_NAME}"]
    who = ["--id", "auto"] if component == "agent" or len(own) > 1 else []
    kind = ["--env"] if component == "env" and who else []
    alive = ["matrpo", "probe", *file, *who, *kind, "--within", str(_STILL)]
    return _container(
        pods,
        "matrpo",
        command=["matrpo", "agent" if component == "agent" else "env-server", *file, *who, "--managed"],
        env=[{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "HOME", "value": "/tmp"}],
        ports=[{"name": "matrpo", "containerPort": port_of(own[0])}],
        resources=_resources(pods),
        startupProbe=_probe(alive, every=10, failures=30),
        livenessProbe=_probe(alive, every=60, failures=3),
        readinessProbe=_probe([*alive, "--taking-part"], every=60, failures=1),
        volumeMounts=[
            {"name": "run", "mountPath": _RUN},
            *_state(component, len(own)),
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    )


def _state(component: str, replicas: int) -> list[Object]:
    """Volume mounts for a pod's state: no mount path can depend on a pod's number, so a server mounts all servers'."""
    servers = [ProcessId.server(server).folder for server in range(replicas)]
    folders = ["agents"] if component == "agent" else servers
    apart = len(folders) > 1
    return [
        {"name": "state", "mountPath": f"{_RUN}/{folder}", **({"subPath": folder} if apart else {})}
        for folder in folders
    ]


def _resources(pods: Pods) -> Object:
    return {"requests": {"cpu": pods.cpu, "memory": pods.memory}, "limits": {"memory": pods.memory}}


def _probe(command: Sequence[str], every: int, failures: int) -> Object:
    return {
        "exec": {"command": list(command)},
        "periodSeconds": every,
        "timeoutSeconds": 20,
        "failureThreshold": failures,
    }


def _network_policies(cluster: Cluster, pods: Pods) -> list[Object]:
    """A network policy for each process: out to those it dials, an agent to DNS too; in from those that dial it."""
    names: Object = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    everyone = {"podSelector": {"matchLabels": _labels(pods, "agent")}}
    policies = []
    for process in cluster.processes:
        dialling = [everyone] if process.is_server else _selectors(pods, cluster.dialled_by(process))
        ingress = [{"from": dialling, "ports": [{"port": port_of(cluster.endpoints[process])}]}] if dialling else []
        dialled = cluster.dials(process)
        egress = [] if process.is_server else [names]
        for group in ([one for one in dialled if one.is_server], [one for one in dialled if not one.is_server]):
            if group:
                ports = [{"port": port_of(cluster.endpoints[group[0]])}]
                egress.append({"to": _selectors(pods, group), "ports": ports})
        policies.append(_network_policy(pods, process, ingress, egress))
    return policies


def _selectors(pods: Pods, processes: Sequence[ProcessId]) -> list[Object]:
    """The pod selector of each process."""
    labels = [{**_labels(pods), _POD_NAME: _pod(pods.name, process)} for process in processes]
    return [{"podSelector": {"matchLabels": one}} for one in labels]


def _network_policy(pods: Pods, process: ProcessId, ingress: list[Object], egress: list[Object]) -> Object:
    (own,) = _selectors(pods, [process])
    spec = {**own, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}
    return _object("NetworkPolicy", "networking.k8s.io/v1", _pod(pods.name, process), pods, spec=spec)
