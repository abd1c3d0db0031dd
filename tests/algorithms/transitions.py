"""Off-policy algorithms without runs: built for a task's name, transitions drawn at random, networks in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from matrpo.algorithms.shared.off_policy import random_actions
from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.build import build_algorithm
from matrpo.envs.masks import mask_size
from matrpo.envs.registry import make_env
from matrpo.settings.config import resolve

SIZES = {"hidden_sizes": [8, 8], "dueling_sizes": [8], "mixer_size": 4, "num_envs": 3, "rollout_length": 30}


def build(algo: str, task: str, **changes: Any) -> Any:
    """An algorithm of small networks, with what is tuned for the task besides."""
    config = resolve(("test", {"algo": algo, "task": task, **SIZES, **changes}))
    env = make_env(config.task, config.agents, config.num_envs, 0)
    try:
        return build_algorithm(env, config)
    finally:
        env.close()


def random_batch(algorithm: Any, size: int = 40, allowed: float = 1.0) -> Batch:
    """Transitions drawn at random, some of them with dead agents, some that terminate.

    Args:
        algorithm: what they are for.
        size: how many.
        allowed: probability that a choice is available; the first of each factor always is.
    """
    generator = torch.Generator().manual_seed(1)
    spec = algorithm.spec

    def moment() -> JointObservation:
        observations = [torch.randn(size, n, generator=generator) for n in spec.observation_sizes]
        alive = torch.rand(size, spec.num_agents, generator=generator) > 0.2
        state = torch.randn(size, algorithm.state_sizes[0], generator=generator)
        return JointObservation(state, observations, masks(), alive)

    def masks() -> list[torch.Tensor]:
        if not algorithm.handles_masks:
            return []
        parts = [torch.rand(size, mask_size(space), generator=generator) < allowed for space in spec.action_spaces]
        for part, space in zip(parts, spec.action_spaces, strict=True):
            if part.shape[1]:
                part[:, np.cumsum([0, *space.sizes[:-1]])] = True
        return parts

    now = moment()
    pairs = zip(spec.action_spaces, now.action_masks or [None] * spec.num_agents, strict=True)
    drawn = [random_actions(space, mask, size, generator) for space, mask in pairs]
    rewards = torch.randn(size, generator=generator)
    discounts = 0.9 * (torch.rand(size, generator=generator) > 0.3)
    return Batch(now, torch.cat(drawn, dim=1), rewards, discounts, moment())


def perceptron(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """A network with ReLU in NumPy."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    outputs = inputs
    for index, layer in enumerate(layers):
        outputs = outputs @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        if index < len(layers) - 1:
            outputs = np.maximum(outputs, 0.0)
    return outputs
