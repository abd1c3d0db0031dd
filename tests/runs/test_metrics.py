"""An agent's line of metrics, with the counters of its links' sockets and without."""

import json
from collections import Counter

from matrpo.consensus.peer import Peer
from matrpo.launch.wire.link_transport import Traffic
from matrpo.launch.wire.watch import Connection
from matrpo.runs.metrics import agent_metrics
from matrpo.runs.phase_clock import PhaseClock
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.topology import make_graph


def test_an_agents_line_says_what_happened_on_each_link_and_on_all() -> None:
    graph = make_graph("line", 3, 0)
    peer = Peer(1, graph, 0, GraphConsensusSettings(beta=0.01, admm_iterations=4), ConnectionSettings())
    clock = PhaseClock()
    counted = {0: Traffic(bytes_sent=5), 2: Traffic(bytes_sent=7, refused=Counter({"malformed": 2}))}
    traffic = {neighbour: vars(counts) for neighbour, counts in counted.items()}
    connections = {0: Connection("up", (1.0, 2.0)).metrics(), 2: Connection("down", None).metrics()}
    peer.link_counters[0].skips = 3
    peer.link_counters[1].drops["late"] = 1
    line = agent_metrics({"kl": 0.5}, peer, clock, traffic, connections, {"malformed": 4})
    assert (line["kl"], line["bytes_sent"], line["skips"], line["rejected"]) == (0.5, 12, 3, 3)
    assert line["refused"] == {"malformed": 4}
    own = line["links"]["0"]
    assert (own["bytes_sent"], own["skips"], own["state"], own["rtt_ms_min"], own["rtt_ms_median"]) == (
        5,
        3,
        "up",
        1,
        2,
    )
    other = line["links"]["2"]
    assert (other["rejected"], other["state"], other["rtt_ms_min"]) == ({"late": 1, "malformed": 2}, "down", None)
    counted[0].bytes_sent = 6
    line = agent_metrics({"kl": 0.5}, peer, clock, traffic, connections, {"malformed": 4})
    assert (line["bytes_sent"], line["links"]["0"]["bytes_sent"], line["rejected"]) == (1, 1, 0)
    json.dumps(line)


def test_without_sockets_nothing_has_gone_through_a_link() -> None:
    graph = make_graph("line", 2, 0)
    peer = Peer(0, graph, 0, GraphConsensusSettings(beta=0.01, admm_iterations=4), ConnectionSettings())
    line = agent_metrics({}, peer, PhaseClock())
    assert (line["bytes_sent"], line["links"]["1"]["unsent"], line["refused"]) == (0, 0, {})
    assert "state" not in line["links"]["1"]
