"""Fault scripts: what they may say, and the errors that name what they may not."""

import pytest
import yaml

from matrpo.errors import ConfigError
from matrpo.faults.fault import Position, Trigger
from matrpo.faults.script import FaultScript, library
from matrpo.runs.process_id import ProcessId
from matrpo.topology import make_graph

RING = make_graph("ring", 6, 0)


def load(tmp_path, *entries):
    path = tmp_path / "script.yaml"
    path.write_text(yaml.safe_dump({"faults": list(entries)}))
    return FaultScript.load(str(path), RING)


@pytest.mark.parametrize("name", library())
def test_every_script_of_the_library_fits_a_ring(name):
    assert FaultScript.load(name, RING).faults
    assert library()[name].endswith(".")


def test_the_library_holds_what_the_documentation_names():
    named = {"loss-5", "loss-20", "partition-60s", "flapping-link", "crash-one", "crash-and-return"}
    assert named | {"slow-neighbour", "hostile-frames"} == set(library())


def test_links_and_directions(tmp_path):
    script = load(
        tmp_path,
        {"do": "drop", "probability": 0.5},
        {"do": "drop", "probability": 1, "links": ["0-1"]},
        {"do": "delay", "seconds": 1, "links": ["1>0", "4-5"]},
        {"do": "partition", "groups": "halves"},
        {"do": "partition", "groups": [[0], [1, 2, 3, 4, 5]]},
    )
    everything, one, some, halves, first = (fault.directions for fault in script.faults)
    assert len(everything) == 12
    assert one == {(0, 1), (1, 0)}
    assert some == {(1, 0), (4, 5), (5, 4)}
    assert halves == {(2, 3), (3, 2), (0, 5), (5, 0)}
    assert first == {(0, 1), (1, 0), (0, 5), (5, 0)}


def test_processes_have_their_own_share(tmp_path):
    script = load(
        tmp_path,
        {"do": "kill", "process": "agent 3", "from": {"iteration": 2, "activation": 4}, "restart_after": 5},
        {"do": "stop", "process": "env-server", "for": 2},
        {"do": "drop", "probability": 0.1},
    )
    (kill,) = script.of_process(ProcessId.agent(3))
    assert kill.begin == Trigger(2, "consensus", 4)
    assert kill.amounts == {"restart_after": 5.0}
    assert [fault.kind for fault in script.of_process(ProcessId.server())] == ["stop"]
    assert [fault.kind for fault in script.of_messages()] == ["drop"]
    assert script.of_process(ProcessId.agent(0)) == []


def test_a_further_environment_server_can_be_named_where_the_run_has_it(tmp_path):
    entry = {"do": "kill", "process": "env-server 1"}
    with pytest.raises(ConfigError, match="process must be env-server or agent 0 to agent 5, not 'env-server 1'"):
        load(tmp_path, entry)
    script = FaultScript.load(str(tmp_path / "script.yaml"), RING, 2)
    assert [fault.kind for fault in script.of_process(ProcessId.server(1))] == ["kill"]
    assert script.of_process(ProcessId.server()) == []


@pytest.mark.parametrize(
    ("moment", "reached"),
    [
        (Trigger(), True),
        (Trigger(iteration=2), True),
        (Trigger(iteration=3), False),
        (Trigger(2, "consensus", 5), True),
        (Trigger(2, "consensus", 6), False),
        (Trigger(1, "consensus", 99), True),
        (Trigger(seconds=9.0), True),
        (Trigger(seconds=11.0), False),
    ],
)
def test_moments(moment, reached):
    assert moment.reached(Position(2, "consensus", 5, 10.0)) == reached


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("drop", ["fault 1", "'do'", "drop"]),
        ({"do": "explode"}, ["'do'", "partition"]),
        ({"do": "drop"}, ["needs 'probability'"]),
        ({"do": "drop", "probability": 2}, ["probability", "0 to 1", "2"]),
        ({"do": "drop", "probability": True}, ["probability", "True"]),
        ({"do": "drop", "probability": 0.1, "link": ["0-1"]}, ["no key 'link'", "links"]),
        ({"do": "drop", "probability": 0.1, "links": ["0-3"]}, ["no link 0-3", "ring"]),
        ({"do": "drop", "probability": 0.1, "links": ["a"]}, ["'a'", "0-1 or 0>1"]),
        ({"do": "drop", "probability": 0.1, "links": "0-1"}, ["list"]),
        ({"do": "delay"}, ["needs 'seconds'"]),
        ({"do": "partition", "groups": [[0, 1], [2, 3]]}, ["groups", "0 to 5"]),
        ({"do": "partition"}, ["groups"]),
        ({"do": "kill", "process": "agent 6"}, ["agent 0 to agent 5", "agent 6"]),
        ({"do": "kill", "process": [3]}, ["agent 0 to agent 5", "[3]"]),
        ({"do": "stop", "process": "agent 1"}, ["'for'"]),
        ({"do": "drop", "probability": 0.1, "for": 1, "until": {}}, ["not both"]),
        ({"do": "drop", "probability": 0.1, "every": 4}, ["'every' needs 'for'"]),
        ({"do": "drop", "probability": 0.1, "from": 3}, ["from", "mapping"]),
        ({"do": "drop", "probability": 0.1, "from": {"phase": "lunch"}}, ["phase", "rollout, consensus", "lunch"]),
        ({"do": "drop", "probability": 0.1, "from": {"iteration": "x"}}, ["iteration", "'x'"]),
        ({"do": "drop", "probability": 0.1, "until": {"seconds": -1}}, ["until", "seconds"]),
    ],
)
def test_mistakes_are_named(tmp_path, entry, words):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, entry)
    message = str(caught.value)
    assert "\n" not in message
    for word in [*words, "script.yaml"]:
        assert word in message


def test_other_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="not one of crash-and-return"):
        FaultScript.load("loss-99", RING)
    (tmp_path / "x.yaml").write_text("fault: []")
    with pytest.raises(ConfigError, match="expected one key, faults"):
        FaultScript.load(str(tmp_path / "x.yaml"), RING)
