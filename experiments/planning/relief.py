"""Changes that would relieve the bottleneck of a planned run: each of one setting, or of the machines."""

from __future__ import annotations

from dataclasses import dataclass, replace

from matrpo.experiments.planning.cost_model import Placement, Prediction
from matrpo.settings.config import DecentralizedConfig

_WORTH = 0.1
"""Share of the time that a change must take off to be named before others."""


@dataclass(frozen=True)
class Relief:
    """A change of a planned run, and the plan with it.

    Attributes:
        change: what to do, in words.
        config, placement: what is planned then.
    """

    change: str
    config: DecentralizedConfig
    placement: Placement


def reliefs(config: DecentralizedConfig, placement: Placement, plan: Prediction) -> list[Relief]:
    """Changes that take some of the bottleneck away and leave the samples of an iteration as they are, best first.

    Args:
        config: the planned run's settings.
        placement: its machines.
        plan: what the model says of it.
    """
    larger = [_larger_steps(config)] if config.rollout_length > 1 else []
    cheaper = [_shorter_fit(config)] if config.critic_epochs > 1 else []
    fewer = [_fewer_activations(config)] if plan.activations > 1 else []
    at_work = max(("act", "prepare", "consensus"), key=lambda phase: plan.cpu[phase])
    changes = {
        "computing": {"act": larger, "prepare": cheaper, "consensus": fewer}[at_work] or cheaper,
        "schedule": fewer,
        "environment": larger,
        "latency": [*fewer, *larger],
        "link bandwidth": [_smaller_messages(config), *fewer],
    }.get(plan.bottleneck, [])
    machines = {
        "computing": ("processors twice as fast", replace(placement, speed=2 * placement.speed)),
        "cores": (f"machines of {2 * placement.cores} cores", replace(placement, cores=2 * placement.cores)),
        "environment": (
            "an environment server twice as fast",
            replace(placement, server_speed=2 * placement.server_speed),
        ),
        "server bandwidth": ("connections twice as fast", replace(placement, bandwidth=2 * placement.bandwidth)),
        "latency": ("half the latency", replace(placement, latency=placement.latency / 2)),
    }
    found = [Relief(change, changed, placement) for change, changed in changes]
    if plan.bottleneck in machines:
        change, others = machines[plan.bottleneck]
        found.append(Relief(change, config, others))
    return found


def choose(gains: list[float]) -> int:
    """The first change that gains enough to be worth it; if none does, the one that gains most."""
    worth = [number for number, gain in enumerate(gains) if gain >= _WORTH]
    return worth[0] if worth else max(range(len(gains)), key=lambda number: gains[number])


def _smaller_messages(config: DecentralizedConfig) -> tuple[str, DecentralizedConfig]:
    if config.wire_dtype == "float32":
        return "--wire-dtype float16", replace(config, wire_dtype="float16")
    samples = max(1, config.shared_samples // 2)
    return f"--consensus-samples {samples}", replace(config, consensus_samples=samples)


def _fewer_activations(config: DecentralizedConfig) -> tuple[str, DecentralizedConfig]:
    activations = config.admm_iterations // 2
    return f"--admm-iterations {activations}", replace(config, admm_iterations=activations)


def _shorter_fit(config: DecentralizedConfig) -> tuple[str, DecentralizedConfig]:
    epochs = config.critic_epochs // 2
    return f"--critic-epochs {epochs}", replace(config, critic_epochs=epochs)


def _larger_steps(config: DecentralizedConfig) -> tuple[str, DecentralizedConfig]:
    """As many samples in half as many steps."""
    envs, steps = 2 * config.num_envs, config.rollout_length // 2
    return f"--num-envs {envs} --rollout-length {steps}", replace(config, num_envs=envs, rollout_length=steps)
