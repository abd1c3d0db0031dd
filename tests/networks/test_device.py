"""Where networks learn: the choice of a device, and the copies by which agents act."""

import os
import subprocess
import sys

import pytest
import torch
from pretended_device import NAME, pretended_device
from torch import nn

from matrpo.errors import ConfigError
from matrpo.networks.device import CPU, ActingNetworks, device_of, make_deterministic, on_device, on_processor
from matrpo.settings.config import Config


@pytest.fixture
def cuda(monkeypatch):
    """Pretend that there is a CUDA device or none; what is set for its determinism does not outlast the test."""
    monkeypatch.setattr("matrpo.networks.device.make_deterministic", lambda: None)
    return lambda there: monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_auto_is_a_graphics_card_where_there_is_one_for_a_run_of_one_process(cuda, there, alone):
    cuda(there)
    assert on_device(Config(device="auto"), alone).device == ("cuda" if there and alone else "cpu")


@pytest.mark.parametrize("alone", [False, True])
def test_a_device_that_is_named_is_taken_or_refused_in_one_line(cuda, alone):
    cuda(True)
    assert on_device(Config(device="cuda"), alone).device == "cuda"
    assert on_device(Config(device="cpu"), alone).device == "cpu"
    cuda(False)
    assert on_device(Config(device="cpu"), alone).device == "cpu"
    with pytest.raises(ConfigError, match=r"^bad value 'cuda' for 'device': torch \S+ sees no CUDA device, .*$"):
        on_device(Config(device="cuda"), alone)


def test_agents_that_only_act_are_on_the_processor():
    assert on_processor(Config(device="cuda", seed=7)) == Config(device="cpu", seed=7)


def test_what_makes_cuda_deterministic_does_not_import_the_compiler():
    code = f"""
import os, sys, torch
from {make_deterministic.__module__} import make_deterministic
make_deterministic()
is_set = torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"]
print(*is_set, "torch._dynamo" in sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", ":4096:8", "False"]


def test_networks_that_learn_on_the_processor_act_themselves():
    networks = [nn.Linear(2, 3), nn.Linear(2, 3)]
    acting = ActingNetworks(networks)
    assert all(a is b for a, b in zip(acting.networks, networks, strict=True))


def test_networks_that_learn_elsewhere_act_by_copies_that_are_refreshed():
    with pretended_device():
        one, other = nn.Linear(2, 3).to(NAME), nn.Linear(2, 3).to(NAME)
        acting = ActingNetworks([one, other, one])
        first, second, third = acting.networks
        assert first is third
        assert [device_of(network) for network in (one, first, second)] == [torch.device(NAME), CPU, CPU]
        before = first.weight.detach().clone()
        assert torch.equal(before, one.weight.detach().cpu())
        with torch.no_grad():
            one.weight += 1.0
        assert torch.equal(first.weight, before)
        acting.refresh()
        assert torch.equal(first.weight, one.weight.cpu())
        assert torch.equal(first.weight, before + 1.0)
        assert torch.equal(second.weight, other.weight.cpu())


def test_the_pretended_device_refuses_a_tensor_of_the_processor():
    with pretended_device() as operations:
        there, here = torch.ones(3, device=NAME), torch.ones(3)
        with pytest.raises(RuntimeError, match="two devices"):
            there + here
        with pytest.raises(RuntimeError, match="two devices"):
            here[torch.zeros(3, dtype=torch.long, device=NAME)]
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=NAME)
        with pytest.raises(RuntimeError, match="generator"):
            there.exponential_(generator=torch.Generator())
        assert (there + here[0] + 1.0).cpu().tolist() == [3.0] * 3
        assert operations.count > 0
