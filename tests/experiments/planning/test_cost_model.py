"""Bytes are the encoder's, known constants are recovered, and a worse network makes nothing faster."""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import CONSTANTS, SECONDS

from matrpo.build import build_agent
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.envs.build import run_spec
from matrpo.envs.registry import task_spec
from matrpo.errors import ConfigError
from matrpo.experiments.planning.cost_constants import (
    Constants,
    Measurement,
    fit,
    least_squares,
    measurements,
    read_measurements,
)
from matrpo.experiments.planning.cost_model import LIMITS, Placement, Prediction, predict
from matrpo.experiments.planning.link_traffic import RUN_ID, link_traffic
from matrpo.experiments.planning.workload import PHASES, Products, Sizes, memory_bytes, phase_counts, step_counts
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.settings.config import Config, RunConfig, resolve
from matrpo.topology import link_sequence

SMALL = {"num_envs": 3, "rollout_length": 4, "tensorboard": False}


def prepared(**changes: Any) -> Measurement:
    given = resolve(("test", {**SMALL, **changes}))
    config = resolve_graph_settings(RunConfig.of(given, given.agents or 6))
    return Measurement(config, build_graph(config), {})


def predicted(run: Measurement, constants: Constants = CONSTANTS, **placement: Any) -> Prediction:
    where = Placement(**{"cores": 2, "agents_per_machine": run.agents, **placement})
    return predict(run.config, run_spec(run.config), run.graph, constants, where)


@pytest.mark.parametrize("topology", ["ring", "star", "random-regular:3", "none"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"wire_dtype": "float16", "consensus_samples": 5}, {"schedule": "matchings"}],
    ids=["all", "thin", "matchings"],
)
def test_bytes_are_those_of_the_encoder(topology: str, changes: dict[str, Any]) -> None:
    """Every message of a consensus in which nothing is lost, packed as it is sent."""
    run = prepared(topology=topology, agents=8, admm_iterations=0 if topology == "none" else 300, **changes)
    config, graph = run.config, run.graph
    codec = LinkCodec(RUN_ID, 8, len(graph.links), config.exchange_shape(8), config.wire_dtype)
    peers = [Peer(q, graph, config.seed, config, config, incarnation=1) for q in range(8)]
    shape = (8, config.shared_samples)
    in_flight: deque[tuple[int, LinkMessage]] = deque()
    for peer in peers:
        peer.begin(1, lambda pull: np.tanh(pull + 0.1).astype(np.float32), shape, now=0.0)
    messages, sizes = [0] * 8, [0] * 8
    while True:
        for peer in peers:
            in_flight.extend(peer.take_outbox())
        if not in_flight:
            break
        receiver, message = in_flight.popleft()
        messages[message.sender] += 1
        sizes[message.sender] += sum(map(len, codec.encode(message)))
        peers[receiver].receive(message, 0.0)
    assert all(peer.done for peer in peers)
    sequence = link_sequence(config.schedule, graph, config.admm_iterations, config.seed, 1).tolist()
    traffic = link_traffic(graph, sequence, config)
    assert list(traffic.agent_messages) == messages
    # A checksum below 65,536 packs into fewer bytes than the one that is assumed.
    assert np.abs(np.subtract(traffic.agent_bytes, sizes)).max() <= 2
    assert sum(traffic.bytes) == sum(traffic.agent_bytes)
    assert sum(traffic.activations) == len(sequence)


def test_the_shipped_measurements_are_of_the_settings_of_their_day() -> None:
    """Nothing that was tuned for teams of their sizes later."""
    runs, _ = read_measurements(None)
    tuned_since = ("critic_epochs", "kl_decay", "step_damping", "model_epochs", "observe_changes")
    for run in runs:
        assert [getattr(run.config, key) for key in tuned_since] == [getattr(Config(), key) for key in tuned_since]
    assert {run.agents for run in runs} == {3, 6, 12, 24, 48}


def test_networks_are_counted_as_they_are_built() -> None:
    for changes in ({}, {"hidden_sizes": (7, 9, 11)}, {"recurrent_layers": 2, "chunk_length": 2}):
        run = prepared(**changes)
        agent = build_agent(0, run.graph, run_spec(run.config), run.config)
        matrices = [
            sum(p.numel() for p in network.parameters() if p.dim() == 2)
            for network in (agent.policy.network, agent.critic)
        ]
        assert [run.sizes.policy_weights, run.sizes.critic_weights] == matrices


def test_counts_by_hand() -> None:
    config = resolve(("test", {"agents": 3, **SMALL, "hidden_sizes": (10,), "critic_batch": 5, "critic_epochs": 2}))
    sizes = Sizes.of(config, task_spec("navigation", 3), 3)
    assert (sizes.observation, sizes.outputs, sizes.samples, sizes.degree) == (14, 15, 12, 2)
    policy, critic = 14 * 10 + 10 * 15, 14 * 10 + 10
    counts = phase_counts(sizes, config, Products(0.0, 0.0))
    assert counts["act"] == (4, 2 * 12 * policy)
    assert counts["step"] == (4, 4 * 3 * 3 * 14)
    assert counts["serve"] == (2 * 4 * 3, 4 * 3 * 3 * (14 + 3))
    assert counts["prepare"][0] == 2 * 3, "12 samples are three minibatches of at most 5"
    assert counts["prepare"][1] > 12 * critic * (6 * 2 + 4)
    plain = replace(config, solver="cg", cg_iterations=7)
    (step,) = step_counts(sizes, plain, Products(0.0, 0.0), 1)
    assert step[1] == (8 * 7 + 4 * 2) * 12 * policy, "seven Fisher products, J^T w, and J x"


def test_averaging_solves_before_and_after_the_consensus_and_not_in_it() -> None:
    admm = replace(prepared().config, step_damping=None)
    averaging, sizes, made = replace(admm, consensus="averaging"), prepared().sizes, Products(6.0, 0.1)
    before, after = phase_counts(sizes, admm, made), phase_counts(sizes, averaging, made)
    passes = 4 * sizes.samples * sizes.policy_weights
    more = {phase: after[phase][1] - before[phase][1] for phase in before if after[phase] != before[phase]}
    assert more == {"prepare": (2 * 6 + 2) * passes, "finish": (2 * 6 + 1) * passes}
    damped = phase_counts(sizes, replace(admm, step_damping=1.0), made)
    assert damped == {**before, "finish": after["finish"]}
    steps = step_counts(sizes, averaging, made, 40)
    assert len(steps) == 40
    assert {operations for _, operations, _ in steps} == {0.0}
    assert memory_bytes(sizes, averaging, made, 40) < memory_bytes(sizes, admm, made, 40)


def test_directions_make_later_steps_dearer_and_more_memory() -> None:
    run = prepared()
    few, many = (step_counts(run.sizes, run.config, Products(first, 0.1), 30) for first in (2.0, 9.0))
    assert all(a[2] < b[2] for a, b in zip(few, many, strict=True))
    every = run.config.solver_check_every
    assert many[every + 1][2] < many[29][2]
    assert many[every - 1][1] == 0.0 < many[every][1], "only there a residual is checked"
    small, large = (memory_bytes(run.sizes, run.config, Products(5.0, 0.1), steps) for steps in (4, 200))
    assert small < large


def test_the_settings_limit_fisher_products() -> None:
    config = prepared().config
    made = Products(40.0, 9.0)
    assert [made.at(step, config) for step in (0, 1, config.solver_check_every)] == [
        config.cg_iterations,
        0.0,
        config.solver_extension,
    ]


def test_a_fit_recovers_known_constants() -> None:
    """Runs whose figures are the model's own."""
    made, runs = Products(4.0, 0.05), []
    for agents in (3, 6, 12, 24):
        for envs, steps, per_link in ((10, 20, 36), (20, 5, 18)):
            shape = {"num_envs": envs, "rollout_length": steps}
            run = prepared(agents=agents, admm_iterations=per_link * agents, **shape)
            consensus = np.sum(step_counts(run.sizes, run.config, made, run.steps), axis=0)
            counts = {**phase_counts(run.sizes, run.config, made), "consensus": tuple(consensus)}
            figures = {f"cpu_{phase}": CONSTANTS.cost(phase, counts[phase]) for phase in PHASES}
            figures["fisher_products"] = made.first + made.later * (run.steps - 1)
            figures["unique_MB"] = 1e-6 * (2e7 + memory_bytes(run.sizes, run.config, made, run.steps))
            if agents > 12:
                figures = dict.fromkeys(figures, 1e9)  # must not matter
            runs.append(replace(run, figures=figures))
    found = fit(runs, {})
    for phase, seconds in SECONDS.items():
        assert found.seconds[phase] == pytest.approx(seconds, rel=1e-6), phase
    assert (found.products.first, found.products.later) == pytest.approx((4.0, 0.05))
    assert found.base_bytes == pytest.approx(2e7, rel=1e-6)
    assert found.agents == (3, 6, 12)


def test_constants_are_not_negative() -> None:
    assert least_squares([(1.0, 1.0), (1.0, 2.0)], [2.0, 1.0])[1] == 0.0


@settings(max_examples=25)
@given(
    st.sampled_from([(1, 4), (3, 2), (6, 1)]),
    st.floats(1e3, 1e9),
    st.floats(1.0, 1e3),
    st.floats(0.0, 0.1),
    st.floats(0.0, 0.1),
)
def test_a_worse_network_is_never_faster(
    place: tuple[int, int], bandwidth: float, times: float, latency: float, more: float
) -> None:
    run, where = prepared(), dict(zip(("agents_per_machine", "cores"), place, strict=True))
    base = predicted(run, bandwidth=bandwidth, latency=latency, **where).seconds
    slack = 1.0 + 1e-12
    assert base <= predicted(run, bandwidth=bandwidth / times, latency=latency, **where).seconds * slack
    assert base <= predicted(run, bandwidth=bandwidth, latency=latency + more, **where).seconds * slack


@settings(max_examples=25)
@given(
    st.sampled_from(["ring", "star", "none", "random-regular:3"]),
    st.integers(1, 6),
    st.integers(1, 8),
    st.floats(1e3, math.inf),
    st.floats(0.0, 1.0),
)
def test_parts_add_up(topology: str, on_one: int, cores: int, bandwidth: float, latency: float) -> None:
    plan = predicted(
        prepared(topology=topology), cores=cores, agents_per_machine=on_one, bandwidth=bandwidth, latency=latency
    )
    assert tuple(plan.limits) == LIMITS
    assert sum(plan.limits.values()) == pytest.approx(plan.seconds)
    assert sum(plan.phases.values()) == pytest.approx(plan.seconds)
    assert min(*plan.limits.values(), *plan.phases.values()) >= 0.0


def test_bottlenecks_are_named() -> None:
    run = prepared(agents=12)
    assert predicted(run, cores=1).bottleneck == "cores"
    apart = {"agents_per_machine": 1, "cores": 1}
    assert predicted(run, latency=1.0, **apart).bottleneck == "latency"
    assert predicted(run, bandwidth=1e3, **apart).bottleneck == "link bandwidth"
    lonely = prepared(agents=12, topology="none")
    assert predicted(lonely, bandwidth=1e3, **apart).bottleneck == "server bandwidth"
    slow_server = replace(CONSTANTS, seconds={**SECONDS, "step": (1.0, 0.0)})
    assert predicted(run, slow_server).bottleneck == "environment"
    slow_agents = replace(CONSTANTS, seconds={**SECONDS, "finish": (100.0, 0.0)})
    assert predicted(run, slow_agents, **apart).bottleneck == "computing"
    star = prepared(agents=12, topology="star", admm_iterations=2000)
    assert predicted(star, **apart).bottleneck == "schedule"


def test_all_links_of_a_matching_take_one_round() -> None:
    plans = {
        kind: predicted(prepared(agents=12, admm_iterations=120, schedule=kind)) for kind in ("matchings", "seeded")
    }
    assert plans["matchings"].rounds == 20, "two colours in a period of 12 links"
    assert plans["seeded"].rounds > 20
    assert predicted(prepared(agents=12, admm_iterations=120, schedule="poisson")) == plans["seeded"]


def test_two_agents_on_two_cores_take_what_one_takes_and_on_one_core_twice_that() -> None:
    run = prepared(agents=2, topology="line", admm_iterations=10)
    free = replace(CONSTANTS, seconds={**dict.fromkeys(SECONDS, (0.0, 0.0)), "consensus": (1.0, 0.0, 0.0)})
    assert predicted(run, free, cores=2).seconds == pytest.approx(10.0)
    assert predicted(run, free, cores=1).seconds == pytest.approx(20.0)
    assert predicted(run, free, cores=1, agents_per_machine=1, latency=0.5).phases == pytest.approx(
        {
            "rollout": 0.0,
            "critic": 0.0,
            "finish": 0.0,
            "consensus compute": 10.0,
            "consensus communication": 5.0,
            "waiting": 2 * 0.5 * SMALL["rollout_length"],
        }
    )


def test_the_shipped_constants_are_measured_runs() -> None:
    runs, machine = read_measurements(None)
    constants = fit(runs, machine)
    assert constants.agents
    assert machine["processor"]
    assert all(math.isfinite(x) and x >= 0.0 for seconds in constants.seconds.values() for x in seconds)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected a file of `matrpo bench scaling --json`"),
        ("[]", "expected a file of"),
        ('{"benchmark": "wire", "machine": {}, "settings": {}, "tables": {}}', "runs"),
    ],
)
def test_a_file_of_something_else_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_measurements(tmp_path / "c.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--constants .*no\.json: No such file"):
        read_measurements(tmp_path / "no.json")


def test_a_missing_figure_is_named() -> None:
    rows = {"table": [{"agents": 3, "envs": 1, "steps": 2, "activations": 3}]}
    with pytest.raises(KeyError, match="no cpu_act of 3 agents"):
        measurements({}, rows)
    json.dumps(rows)


def test_constants_need_a_small_run() -> None:
    with pytest.raises(ConfigError, match="at most 12 agents"):
        fit([prepared(agents=13)], {})
