"""The Adam optimiser without torch's compiler, whose import costs every process that learns two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def make_adam(parameters: Iterable[Tensor], lr: float, eps: float = 1e-8, fused: bool = True) -> torch.optim.Adam:
    """Build an Adam optimiser (Kingma & Ba 2015, Algorithm 1).

    Args:
        parameters: what it changes, tensors of any shapes.
        lr: the learning rate.
        eps: added to the root of the second moment.
        fused: update all parameters in one operation, which rounds differently.
    """
    return _Adam(parameters, lr=lr, eps=eps, fused=fused)


def step_along(optimizer: torch.optim.Optimizer, gradient: Tensor, max_norm: float | None) -> None:
    """Take one optimiser step along a gradient.

    Args:
        optimizer: what it changes is in its groups.
        gradient: with respect to all of that, in order, as one vector; it is overwritten.
        max_norm: gradient clipping: a longer gradient is shortened to this; None: never.
    """
    if max_norm is not None:
        gradient *= (max_norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp_max(1.0)
    start = 0
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    optimizer.step()


def _plain(method: Callable[..., Any]) -> Any:
    """Unwrap a method: remove torch's decorator that hides it from the compiler."""
    return getattr(method, "__wrapped__", method)


class _Adam(torch.optim.Adam):
    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(_plain(torch.optim.Adam.step))
