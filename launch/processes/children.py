"""The main functions of the launcher's children, by name: importing them here would import torch in the launcher."""

from __future__ import annotations

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.process import Supervision
from matrpo.runs.run_directory import is_server, server_number


def run_child(name: str, cluster: Cluster, supervision: Supervision) -> None:
    """Be the process that `RunDirectory.processes` calls `name`."""
    if is_server(name):
        from matrpo.launch.processes import env_server

        env_server.child_main(cluster, server_number(name), supervision)
    else:
        from matrpo.launch.processes import agent_process

        agent_process.child_main(cluster, int(name.removeprefix("agent ")), supervision)
