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


def _plain(method: Callable[..., Any]) -> Any:
    """Unwrap a method: remove torch's decorator that hides it from the compiler."""
    return getattr(method, "__wrapped__", method)


class _Adam(torch.optim.Adam):
    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(_plain(torch.optim.Adam.step))
