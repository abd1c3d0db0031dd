"""The main functions of the launcher's children, by name: importing them here would import torch in the launcher."""

from __future__ import annotations

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.process import Supervision
from matrpo.runs.process_id import ProcessId


def run_child(process: ProcessId, cluster: Cluster, supervision: Supervision) -> None:
    """Run an agent or an environment server in this child process."""
    if process.is_server:
        from matrpo.launch.processes import env_server

        env_server.child_main(cluster, process, supervision)
    else:
        from matrpo.launch.processes import agent_process

        agent_process.child_main(cluster, process, supervision)
