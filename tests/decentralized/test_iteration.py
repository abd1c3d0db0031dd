"""Participants driven by hand, as the loop in one process and as agents' processes do it, give the same bits."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from matrpo.build import build_participant
from matrpo.decentralized.in_process import agree, roll_out
from matrpo.envs.build import build_environment
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.runs.phase_clock import PhaseClock
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import InProcessTraining

SETTINGS = {
    "agents": 3,
    "num_envs": 4,
    "rollout_length": 10,
    "steps": 80,
    "hidden_sizes": [8],
    "recurrent_layers": 1,
    "chunk_length": 5,
    "consensus_samples": 30,
    "fisher_samples": 20,
    "admm_iterations": 12,
    "tensorboard": False,
}
KINDS = {"admm": {}, "averaging": {"consensus": "averaging"}, "value targets": {"algo": "dnamarl"}}
"""What the links of a decentralised algorithm agree on."""


class Team:
    """Three participants and their environment."""

    def __init__(self, consensus):
        self.config = resolve_graph_settings(run_config(resolve(("test", {**SETTINGS, **KINDS[consensus]}))))
        self.environment = build_environment(self.config)
        graph, spec = build_graph(self.config), self.environment.spec
        self.participants = [build_participant(q, graph, spec, self.config, PhaseClock()) for q in range(3)]
        self.steps = self.environment.reset()

    def each(self):
        return zip(self.participants, self.steps, strict=True)

    def iterate_as_one_process(self, iteration):
        self.steps = roll_out(self.participants, self.environment, self.steps, self.config.rollout_length)
        for participant, step in self.each():
            participant.prepare(step, iteration)
        agree(self.participants, iteration)
        return [participant.metrics(participant.finish()) for participant in self.participants]

    def iterate_as_processes(self, iteration):
        """Each half of the environments is asked for by itself; peers run late, by a clock that goes on."""
        for _ in range(self.config.rollout_length):
            halves = [[p.agent.act(part_of(step, first), first) for p, step in self.each()] for first in (2, 0)]
            first, second = (np.concatenate(actions, axis=1) for actions in reversed(halves))
            self.steps = self.environment.step(np.concatenate([first, second]))
        in_flight = deque()
        for now, (participant, step) in enumerate(self.each()):
            participant.prepare(step, iteration)
            participant.begin(iteration, 100.0 + now)
            in_flight.extend(participant.peer.take_outbox())
        while in_flight:
            receiver, message = in_flight.pop()
            self.participants[receiver].peer.receive(message, 105.0)
            in_flight.extend(self.participants[receiver].peer.take_outbox())
        assert all(participant.peer.done for participant in self.participants)
        return [participant.metrics(participant.finish()) for participant in self.participants]

    def state(self):
        return [participant.agent.state_dict()[0] for participant in self.participants]


def part_of(step, first):
    parts = {
        name: value if name == "reward_scale" or value is None else value[first : first + 2]
        for name, value in vars(step).items()
    }
    return replace(step, **parts)


def assert_equal_states(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def learnt(line):
    numbers = {name: value for name, value in line.items() if isinstance(value, float)}
    return {name: value for name, value in numbers.items() if name != "time" and "seconds" not in name}


@pytest.fixture(scope="module", params=KINDS)
def consensus(request):
    return request.param


@pytest.fixture(scope="module")
def trained(tmp_path_factory, consensus):
    """The run in one process: states and metrics after each of two iterations."""
    config = resolve(("test", {**SETTINGS, **KINDS[consensus]}))
    run = RunDirectory.create(tmp_path_factory.mktemp("runs") / "run", config, {})
    training, states = InProcessTraining(run), []
    for _ in range(2):
        training.iterate()
        states.append([participant.agent.state_dict()[0] for participant in training.participants])
    return states, [run.agent(q).read_metrics() for q in range(3)]


@pytest.mark.parametrize("driver", [Team.iterate_as_one_process, Team.iterate_as_processes])
def test_whoever_drives_it_the_bits_are_the_same(trained, consensus, driver):
    states, lines = trained
    team = Team(consensus)
    for iteration in (1, 2):
        metrics = driver(team, iteration)
        assert_equal_states(team.state(), states[iteration - 1])
        for q in range(3):
            assert learnt(metrics[q]) == learnt(lines[q][iteration - 1])
            assert {"seconds_prepare", "seconds_consensus", "seconds_finish"} <= metrics[q].keys()


def test_a_discarded_rollout_leaves_no_trace_but_the_numbers_drawn(trained, consensus):
    team = Team(consensus)
    before = [participant.agent.state_dict() for participant in team.participants]
    for participant, step in team.each():
        participant.agent.act(step)
        participant.agent.act(step)
        participant.agent.discard_rollout()
    for state, (arrays, _) in zip(team.state(), before, strict=True):
        assert {name for name in arrays if not np.array_equal(arrays[name], state[name])} == {"generator"}
    for participant, state in zip(team.participants, before, strict=True):
        participant.agent.load_state_dict(*state)
    team.iterate_as_one_process(1)
    assert_equal_states(team.state(), trained[0][0])


def test_restored_participants_continue_bit_for_bit(trained, consensus):
    first, second = Team(consensus), Team(consensus)
    first.iterate_as_one_process(1)
    second.steps = second.environment.resume(first.environment.state_dict())
    for old, new in zip(first.participants, second.participants, strict=True):
        new.agent.load_state_dict(*old.agent.state_dict())
    second.iterate_as_one_process(2)
    assert_equal_states(second.state(), trained[0][1])


def test_an_iteration_that_an_agent_sits_out_waits_for_none_of_its_links(consensus):
    team = Team(consensus)
    *others, absent = team.participants
    team.steps = roll_out(team.participants, team.environment, team.steps, team.config.rollout_length)
    for participant, step in zip(others, team.steps, strict=False):
        participant.prepare(step, 1)
    absent.agent.discard_rollout()
    absent.peer.sit_out(1, now=0.0)
    for participant in others:
        participant.begin(1, now=0.0)
    in_flight = deque(message for participant in team.participants for message in participant.peer.take_outbox())
    while in_flight:
        receiver, message = in_flight.popleft()
        team.participants[receiver].peer.receive(message, 0.0)
        in_flight.extend(team.participants[receiver].peer.take_outbox())
    assert all(participant.peer.done for participant in team.participants)
    lines = [participant.metrics(participant.finish()) for participant in others]
    assert [line["links"]["2"]["commits"] for line in lines] == [0, 0]
    assert all(line["kl"] > 0 for line in lines)
