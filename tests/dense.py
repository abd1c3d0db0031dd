"""Dense references for small networks, by autograd: what the products of the learning core must equal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.mlp import flat_parameters
from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete, TaskSpec

MIXED = (Discrete(3), Discrete(3), Box(2, -1.0, 1.0), Discrete(4), Box(1, -1.0, 1.0))
FACTORS = (MultiDiscrete((3, 2)), MultiDiscrete((3, 2)), Box(1, -1.0, 1.0), MultiDiscrete((2, 2, 2)))


def make_spec(spaces: tuple[ActionSpace, ...], observation_size: int) -> TaskSpec:
    agents = tuple(f"agent_{q}" for q in range(len(spaces)))
    return TaskSpec("test", agents, (observation_size,) * len(spaces), spaces)


def make_policy(
    spec: TaskSpec,
    agent_id: int,
    seed: int,
    activation: str = "selu",
    hidden: tuple[int, ...] = (6, 5),
    recurrent_layers: int = 0,
    normalize: bool = False,
) -> JointPolicy:
    """A float64 policy with weights large enough that its distributions differ between observations."""
    generator = torch.Generator().manual_seed(seed)
    networks = NetworkSettings(
        hidden_sizes=hidden,
        feature_normalization=normalize,
        activation=activation,
        recurrent_layers=recurrent_layers,
        initial_log_std=-0.3,
    )
    policy = JointPolicy(agent_id, spec, networks, generator).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return policy


def draw_samples(
    spec: TaskSpec, policy: JointPolicy, samples: int, seed: int, sequences: Sequences | None = None
) -> tuple[Tensor, Tensor]:
    """Observations (M, size) and joint actions (M, width) drawn from the policy's own joint model."""
    generator = torch.Generator().manual_seed(seed)
    size = spec.observation_sizes[policy.agent_id]
    observations = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        blocks = policy.distribution(observations, None, sequences).blocks
        actions = torch.cat([block.sample(generator).flatten(1) for block in blocks], dim=1)
    return observations, actions.double()


def dense_jacobian(
    policy: JointPolicy,
    observations: Tensor,
    joint_action: Tensor,
    mask: Tensor | None = None,
    sequences: Sequences | None = None,
) -> Tensor:
    """d log pi(a^n | o) / d theta by autograd. Shape (N, M, D)."""

    def log_prob(flat: Tensor) -> Tensor:
        return _at(policy, flat, observations, mask, sequences).log_prob(joint_action).T

    jacobian: Tensor = torch.autograd.functional.jacobian(log_prob, flat_parameters(list(policy.parameters())))
    return jacobian


def dense_hessian(
    policy: JointPolicy, observations: Tensor, mask: Tensor | None = None, sequences: Sequences | None = None
) -> Tensor:
    """Hessian of the mean KL of all heads at the policy's parameters, by autograd. Shape (D, D)."""
    with torch.no_grad():
        old = policy.distribution(observations, mask, sequences)

    def mean_kl(flat: Tensor) -> Tensor:
        return old.kl_to(_at(policy, flat, observations, mask, sequences)).sum(1).mean()

    hessian: Tensor = torch.autograd.functional.hessian(mean_kl, flat_parameters(list(policy.parameters())))
    return hessian


def dense_kkt(hessian: np.ndarray, gradient: np.ndarray, penalty: float, kl_step: float) -> np.ndarray:
    """argmin -V^T x + penalty/2 x^T H x subject to x^T H x / 2 <= kl_step, by a search for the multiplier.

    This is (43) with (46): the stationarity condition is (lambda + penalty) H x = V, and lambda >= 0 is the smallest
    that keeps the constraint. No closed form of lambda is used.
    """

    def point(multiplier: float) -> np.ndarray:
        return np.linalg.solve((multiplier + penalty) * hessian, gradient)

    def kl(multiplier: float) -> float:
        x = point(multiplier)
        return float(0.5 * x @ hessian @ x)

    if penalty > 0 and kl(0.0) <= kl_step:
        return point(0.0)
    low, high = 0.0 if penalty > 0 else 1e-12, 1.0
    while kl(high) > kl_step:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kl(middle) > kl_step else (low, middle)
    return point(high)


def _at(policy: JointPolicy, flat: Tensor, observations: Tensor, mask: Tensor | None, sequences: Sequences | None):
    parts, start = {}, 0
    for name, parameter in policy.named_parameters():
        parts[name] = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self):
            return self.policy.distribution(observations, mask, sequences)

    return functional_call(Call(), {f"policy.{name}": value for name, value in parts.items()}, ())
