"""What an iteration costs as agents are added: time by phase, traffic by link, Fisher products; real launched runs."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from matrpo.config import resolve
from matrpo.experiments.bench_launch import LaunchedRun, metric
from matrpo.experiments.bench_report import Report, Row, Say
from matrpo.graph_settings import link_activations
from matrpo.topology import make_graph

_PHASES = ("rollout", "prepare", "consensus", "finish", "waiting")


def run(agents: Sequence[int], topology: str, iterations: int, quick: bool, say: Say) -> Report:
    """Launch a short run for each N. Figures are of all iterations but the first.

    Args:
        agents: the numbers of agents N.
        topology: the communication graph.
        iterations: measured iterations.
        quick: tiny sizes.
        say: told about the progress.
    """
    settings: dict[str, Any] = {"topology": topology, "seed": 0, "tensorboard": False}
    settings |= {"num_envs": 4, "rollout_length": 10} if quick else {"num_envs": 100, "rollout_length": 100}
    times: list[Row] = []
    traffic: list[Row] = []
    for num_agents in agents:
        say(f"N={num_agents}: {iterations + 1} iterations")
        time_row, traffic_row = _measure(num_agents, settings, iterations)
        times.append(time_row)
        traffic.append(traffic_row)
    facts = {**settings, "agents": list(agents), "iterations": iterations}
    titles = ("seconds per iteration (medians; phases: mean over agents)", "traffic and products per iteration")
    return Report("scaling", facts, dict(zip(titles, (times, traffic), strict=True)))


def _measure(num_agents: int, settings: dict[str, Any], iterations: int) -> tuple[Row, Row]:
    config = resolve(("benchmark", {**settings, "agents": num_agents}))
    # One more iteration than is waited for: its processes' CPU time can be read while they live.
    steps = (iterations + 2) * config.samples
    with LaunchedRun(num_agents, {**settings, "steps": steps}) as launched:
        launched.wait_for(1)
        used, begin = launched.cpu_seconds(), time.perf_counter()
        launched.wait_for(iterations + 1)
        used, seconds = launched.cpu_seconds() - used, time.perf_counter() - begin
        lines = [agent.read_metrics()[1 : iterations + 1] for agent in launched.agents]

    def mean(name: str) -> float:
        return statistics.fmean(statistics.fmean(metric(own, name)) for own in lines)

    def median(name: str) -> float:
        return statistics.fmean(statistics.median(metric(own, name)) for own in lines)

    graph = make_graph(config.topology, num_agents, config.seed)
    links = max(1, len(graph.links))
    phases = {phase: median(f"seconds_{phase}") for phase in _PHASES}
    time_row = {
        "agents": num_agents,
        **phases,
        "iteration": seconds / iterations,
        "cpu_seconds": used / iterations,
        "busy_cores": used / seconds,
        "cores": os.cpu_count() or 1,
    }
    payload = 2 * link_activations(graph, config) * config.shared_samples * num_agents * 4 / links
    per_link = num_agents / links
    traffic_row = {
        "agents": num_agents,
        "links": len(graph.links),
        "activations": link_activations(graph, config),
        "messages_per_link": per_link * mean("messages_sent"),
        "MB_per_link": 1e-6 * per_link * mean("bytes_sent"),
        "payload_MB_per_link": 1e-6 * payload,
        "overhead": per_link * mean("bytes_sent") / payload - 1.0 if payload else 0.0,
        "fisher_products_per_agent": mean("fisher_products"),
        "resends": num_agents * mean("resends"),
    }
    return time_row, traffic_row
