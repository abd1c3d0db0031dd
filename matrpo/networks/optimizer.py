"""The Adam optimiser without torch's compiler, whose import costs every process that learns two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def make_adam(parameters: Iterable[Tensor], lr: float, eps: float = 1e-8) -> torch.optim.Adam:
    """Build an Adam optimiser (Kingma & Ba 2015, Algorithm 1) that updates all parameters in one operation.

    Args:
        parameters: what it changes, tensors of any shapes.
        lr: the learning rate.
        eps: added to the root of the second moment.
    """
    return _Adam(parameters, lr=lr, eps=eps, fused=True)


def step_along(optimizer: torch.optim.Optimizer, gradients: list[Tensor], max_norm: float | None) -> None:
    """Take one optimiser step along a gradient.

    Args:
        optimizer: what it changes is in its groups.
        gradients: with respect to each parameter of that, in order and in its shape.
        max_norm: gradient clipping: a longer gradient, of all together, is shortened to this; None: never.
    """
    if max_norm is not None:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        gradients = list(torch._foreach_mul(gradients, (max_norm / (norm + 1e-6)).clamp_max(1.0)))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.contiguous()  # the fused kernel takes values as they lie in memory
    optimizer.step()


def _plain(method: Callable[..., Any]) -> Any:
    """Unwrap a method: remove torch's decorator that hides it from the compiler."""
    return getattr(method, "__wrapped__", method)


_torch_step = _plain(torch.optim.Adam.step)


class _Adam(torch.optim.Adam):
    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """As torch's, which the first step is; later ones leave out most of what torch does around its operation."""
        if closure is not None or not all(map(self._is_under_way, self.param_groups)):
            outcome: float | None = _torch_step(self, closure)
            return outcome
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[parameter] for parameter in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, [torch.ones_like(steps[0])] * len(steps))  # in half the time of adding a number
            torch._fused_adam_(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
        return None

    # Torch would wrap it in hooks, of which there are none here, and which take as long as it does.
    step.hooked = True  # type: ignore[attr-defined]

    def _is_under_way(self, group: dict[str, Any]) -> bool:
        """Whether the state of all of a group's parameters is there."""
        return all(each in self.state and each.grad is not None for each in group["params"])
