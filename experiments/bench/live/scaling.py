"""Cost of an iteration by the number of agents, measured in launched runs and predicted by the cost model.

Constants are fitted to the runs of few agents (`cost_constants`), two for each number, of different shapes: so what a
step, an activation and a sample cost are told apart. The others are predicted.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matrpo.envs.build import run_spec
from matrpo.experiments.bench.live.launching import LaunchedRun, metric
from matrpo.experiments.bench.report import Goal, Report, Row, Say, machine_facts
from matrpo.experiments.planning.cost_constants import LARGEST_FITTED, Constants, Measurement, fit, measurements
from matrpo.experiments.planning.cost_model import Placement, Prediction, predict
from matrpo.experiments.planning.workload import SERVER_PHASES
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.settings.config import Config, DecentralizedConfig, RunConfig, resolve

_SHAPE = (100, 20)
"""B environments and T steps of an iteration, in every run."""

_OTHER_SHAPE = (20, 50)
"""B and T of a second run, with half as many activations, for each number of agents that constants are fitted to."""

_PLAIN = (
    *("kl_step", "kl_decay", "step_damping", "model_epochs", "observe_changes"),
    *("critic_epochs", "solver_tolerance", "solver_check_every"),
)
"""Settings of all runs that are the defaults, whatever is tuned: Fisher products are those of local steps alone."""

_QUICK_SHAPES = ((4, 10), (2, 20))
_PHASES = ("rollout", "prepare", "consensus", "finish")
_EVERY = 0.25
"""Seconds between two polls of a run's files and of the memory of one of its agents."""

_MEMORY = 60.0
"""Limit of an agent's unique memory (USS) in megabytes, at M = 2000 samples."""

_GROWTH = 1.05
"""Largest factor by which messages, and bytes per head, may grow from the smallest run to the largest."""

_ERROR = 25.0
"""Largest error of a prediction, in percent."""

_TITLES = (
    "processor seconds per iteration: an agent's (mean), and the environment server's",
    "seconds per iteration; phases: mean over agents",
    "an agent per iteration: messages with log ratios and others, what they hold, Fisher products, and its own memory",
)
_PREDICTED = "seconds per iteration as predicted and as measured; errors of the prediction in %"


def run(
    agents: Sequence[int],
    topology: str,
    iterations: int,
    activations_per_link: int,
    changes: Mapping[str, Any],
    quick: bool,
    say: Say,
) -> Report:
    """Launch short runs for each N. Figures are medians over all iterations but the first.

    Args:
        agents: the numbers of agents N.
        topology: the communication graph.
        iterations: measured iterations.
        activations_per_link: K over the number of links.
        changes: further settings of all runs.
        quick: tiny sizes.
        say: told about the progress.
    """
    plain = {key: getattr(Config(), key) for key in _PLAIN}
    settings = {"topology": topology, "seed": 0, "tensorboard": False, **plain, **changes}
    first, second = _QUICK_SHAPES if quick else (_SHAPE, _OTHER_SHAPE)
    tables: dict[str, list[Row]] = {title: [] for title in _TITLES}
    for num_agents in agents:
        for envs, steps in [first, second] if num_agents <= LARGEST_FITTED else [first]:
            say(f"N={num_agents}: {iterations + 1} iterations of {envs} x {steps} samples")
            shape = {"agents": num_agents, "num_envs": envs, "rollout_length": steps}
            config = RunConfig.of(resolve(("benchmark", {**settings, **shape})), num_agents)
            links = len(build_graph(config).links)
            per_link = activations_per_link if (envs, steps) == first else -(-activations_per_link // 2)
            given = {**settings, **shape, "admm_iterations": per_link * links}
            for title, row in zip(_TITLES, _measure(given, iterations), strict=True):
                tables[title].append(row)
    machine = machine_facts()
    runs = measurements(settings, tables)
    goals = _growth_goals([run for run in runs if _shape(run) == first])
    if min(agents) <= LARGEST_FITTED:
        constants = fit(runs, machine)
        rows = [compare(run, constants) for run in runs]
        tables[_PREDICTED] = rows
        goals += [
            Goal(f"N={row['agents']}: error of the predicted time, %", abs(float(row["error_%"])), _ERROR, False)
            for row in rows
            if int(row["agents"]) > LARGEST_FITTED
        ]
    facts = {"agents": list(agents), "iterations": iterations, "activations_per_link": activations_per_link}
    return Report("scaling", {"runs": settings, **facts}, tables, goals)


def compare(run: Measurement, constants: Constants) -> Row:
    """The cost model's prediction for a measured run, beside the measurement."""
    seen, foreseen = run.figures, foresee(run, constants)
    server = sum(foreseen.cpu[phase] for phase in SERVER_PHASES)
    agent = sum(foreseen.cpu.values()) - server
    return {
        "agents": run.agents,
        "envs": run.config.num_envs,
        "steps": run.config.rollout_length,
        "is": "fitted" if run.agents <= LARGEST_FITTED else "predicted",
        "predicted": foreseen.seconds,
        "measured": seen["iteration"],
        "error_%": _error(foreseen.seconds, seen["iteration"]),
        "agent_CPU_%": _error(agent, seen["cpu_agent"]),
        "server_CPU_%": _error(server, seen["cpu_step"] + seen["cpu_serve"]),
        "bytes_%": _error(1e-6 * statistics.fmean(foreseen.traffic.agent_bytes), seen["MB"]),
        "memory_%": _error(1e-6 * foreseen.agent_bytes, seen["unique_MB"]),
        "limit": foreseen.bottleneck,
    }


def foresee(run: Measurement, constants: Constants) -> Prediction:
    """Predict a measured run, all of whose processes were on one machine."""
    return predict(
        run.config, run_spec(run.config), run.graph, constants, Placement(int(run.figures["cores"]), run.agents)
    )


def _error(predicted: float, measured: float) -> float:
    return 100.0 * (predicted / measured - 1.0) if measured else 0.0


def _shape(run: Measurement) -> tuple[int, int]:
    return run.config.num_envs, run.config.rollout_length


def _growth_goals(runs: Sequence[Measurement]) -> list[Goal]:
    """Goals: messages grow with the number of heads alone, and an agent's memory stays below its limit."""
    first, last = runs[0], runs[-1]
    goals = [Goal(f"N={last.agents}: an agent's own memory, MB", last.figures["unique_MB"], _MEMORY, False)]
    for name, what in (("ratios", "messages with log ratios"), ("kB_per_head", "bytes per head")):
        if len(runs) > 1 and first.figures[name]:
            growth = last.figures[name] / first.figures[name]
            goals.append(Goal(f"N={last.agents} / N={first.agents}: {what} of an agent", growth, _GROWTH, False))
    return goals


def _measure(settings: Mapping[str, Any], iterations: int) -> tuple[Row, Row, Row]:
    config = resolve_graph_settings(RunConfig.of(resolve(("benchmark", settings)), settings["agents"]))
    agents = config.agents
    unique: list[int] = []
    # One more iteration than is waited for: its processes' memory can be read while they live.
    with LaunchedRun(agents, {**settings, "steps": (iterations + 2) * config.samples}) as launched:
        launched.wait_until_ready()
        watched = launched.agent_processes()[0]

        def is_over() -> bool:
            unique.append(watched.memory_full_info().uss)
            return len(launched.environment.read_metrics()) > iterations

        launched.wait(is_over, _EVERY)
        launched.wait_for(iterations + 1)
        lines = [agent.read_metrics()[1 : iterations + 1] for agent in launched.agents]
        server = launched.environment.read_metrics()[1 : iterations + 1]

    def of_agents(name: str) -> float:
        return statistics.fmean(statistics.median(metric(own, name)) for own in lines)

    def of_server(name: str) -> float:
        return statistics.median(metric(server, name))

    shape = {"agents": agents, "envs": config.num_envs, "steps": config.rollout_length}
    iteration = config.samples / of_server("steps_per_second")
    used = {phase: of_agents(f"cpu_seconds_{phase}") for phase in _PHASES}
    agent, stepping = of_agents("cpu_seconds"), of_server("seconds_step")
    processor_row = shape | {
        "cpu_act": used["rollout"],
        "cpu_prepare": used["prepare"],
        "cpu_consensus": used["consensus"],
        "cpu_finish": used["finish"],
        "cpu_record": agent - sum(used.values()),
        "cpu_agent": agent,
        "cpu_step": stepping,
        "cpu_serve": of_server("cpu_seconds") - stepping,
    }
    time_row = shape | {
        **{phase: of_agents(f"seconds_{phase}") for phase in (*_PHASES, "waiting")},
        "iteration": iteration,
        "busy_cores": (agents * agent + of_server("cpu_seconds")) / iteration,
        "cores": os.cpu_count() or 1,
    }
    return processor_row, time_row, {**shape, **_sent(config, of_agents), "unique_MB": 1e-6 * max(unique)}


def _sent(config: DecentralizedConfig, of_agents: Callable[[str], float]) -> Row:
    """Messages and bytes that an agent sends in an iteration; `of_agents` reads a metric."""
    graph = build_graph(config)
    messages = of_agents("commits") + of_agents("resends")
    megabytes = 1e-6 * of_agents("bytes_sent")
    payload = 4e-6 if config.wire_dtype == "float32" else 2e-6
    payload *= messages * config.shared_samples * graph.num_agents
    return {
        "links": len(graph.links),
        "activations": config.admm_iterations,
        "ratios": messages,
        "others": of_agents("messages_sent") - messages,
        "MB": megabytes,
        "payload_MB": payload,
        "kB_per_head": 1e3 * megabytes / graph.num_agents,
        "fisher_products": of_agents("fisher_products"),
    }
