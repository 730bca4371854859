"""BERT's Adam as a fairseq optimizer: no bias correction, decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, List, Optional

import torch
from fairseq.optim import register_optimizer

from fairseq_mtssl.optim.adamw import AdamOptimizer, FusedAdamWConfig


class UncorrectedAdam(torch.optim.Optimizer):
    """Computes m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − lr · (m / (√v + ε) + λp).

    Without bias correction (division by 1 − βᵗ) early updates are large: m / √v of a constant gradient is
    (1 − β₁) / √(1 − β₂) = 3.2 at the first update, 6.6 at the twelfth, and then falls to 1. A parameter
    without a gradient stays as it is. The state of a parameter is exp_avg (m) and exp_avg_sq (v), in its
    dtype. Source: the published code of Devlin et al. 2019, arXiv 1810.04805; weight decay of Loshchilov &
    Hutter 2019, arXiv 1711.05101.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:  # type: ignore[override]
        """Update every parameter that has a gradient; each operation handles all of them at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        (beta1, beta2), rate = group["betas"], group["lr"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [self.state[parameter]["exp_avg"] for parameter in parameters]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, gradients, alpha=1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_add_(divisors, group["eps"])
        # the weight decay, too, uses the weights before the update
        if group["weight_decay"] > 0:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, divisors, value=-rate)


@dataclass
class BertAdamConfig(FusedAdamWConfig):
    pass


@register_optimizer("bert_adam", dataclass=BertAdamConfig)
class BertAdam(AdamOptimizer):
    """The optimizer of the paper's code for arXiv 2306.02972: see `UncorrectedAdam`."""

    def __init__(self, cfg: BertAdamConfig, params: List[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = UncorrectedAdam(params, **self.optimizer_config)
