"""Which agent `--id` means."""

from __future__ import annotations

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.engines.placement import own_number

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "HOSTNAME": "run-7-agent-12"}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("3", {}, 3),
        ("3", {"SLURM_PROCID": "5"}, 3),
        ("auto", {"SLURM_PROCID": "5"}, 5),
        ("auto", {"SLURM_PROCID": "0"}, 0),
        ("auto", POD, 12),
        ("auto", POD | {"SLURM_PROCID": "1"}, 1),
    ],
)
def test_the_id_is_given_or_found(given, environment, expected):
    assert own_number(given, environment, "agent") == own_number(given, environment, "environment server") == expected


@pytest.mark.parametrize(
    ("given", "environment", "reasons"),
    [
        ("three", {}, ["--id three", "auto"]),
        ("auto", {"HOSTNAME": "agent-3"}, ["SLURM_PROCID", "KUBERNETES_SERVICE_HOST", "--id 0"]),
        ("auto", POD | {"HOSTNAME": "agent-x7k2"}, ["'agent-x7k2'", "StatefulSet"]),
        ("auto", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, ["''", "StatefulSet"]),
    ],
)
def test_where_nothing_tells_it_the_reason_is_said_in_one_line(given, environment, reasons):
    with pytest.raises(ConfigError) as refused:
        own_number(given, environment, "agent")
    assert all(reason in str(refused.value) for reason in reasons)
    assert "\n" not in str(refused.value)
