from __future__ import annotations

import pytest

from matrpo.errors import ConfigError
from matrpo.experiments.planning.units import bandwidth, latency, show_bytes, show_seconds


def test_rates_are_in_bits_or_in_bytes() -> None:
    assert bandwidth("1Gbps") == 125e6
    assert bandwidth("100 Mbps") == 12.5e6
    assert bandwidth("40MB/s") == 40e6
    assert bandwidth("2.5kbps") == 312.5


def test_times() -> None:
    assert latency("1ms") == 1e-3
    assert latency("50us") == pytest.approx(5e-5)
    assert latency("0s") == 0.0


@pytest.mark.parametrize("text", ["1", "Gbps", "1 Gb", "-1Gbps", "1gbps", "0Gbps", "1e3Mbps", ""])
def test_a_bad_rate_names_its_flag(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--bandwidth"):
        bandwidth(text)


@pytest.mark.parametrize("text", ["1", "ms", "1 hour", "-1ms"])
def test_a_bad_time_names_its_flag(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--latency .*such as 1ms"):
        latency(text)


def test_quantities_are_shown_with_three_digits() -> None:
    assert [show_seconds(value) for value in (0.0, 2.5e-5, 0.0123, 1.234, 119.0, 600.0, 36000.0)] == [
        "0 us",
        "25 us",
        "12.3 ms",
        "1.23 s",
        "119 s",
        "10 min",
        "10 h",
    ]
    assert [show_bytes(value) for value in (0, 999, 1000, 480_132, 36.5e6, 2e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "480 kB",
        "36.5 MB",
        "2000 TB",
    ]
