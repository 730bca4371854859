"""torch's fused AdamW as a fairseq optimizer: one kernel for all parameters instead of a dozen for each."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    betas: Tuple[float, float] = field(
        default=(0.9, 0.999), metadata={"help": "decay of the running means of the gradient and its square"}
    )
    eps: float = field(default=1e-6, metadata={"help": "added to the root of the second moment"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled from the gradient, times the rate"})
    lr: Any = II("optimization.lr")


class AdamOptimizer(FairseqOptimizer):
    """What the optimizers with the fields of FusedAdamWConfig have in common."""

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """What a checkpoint may be resumed with in place of what it was saved with."""
        return {
            "lr": float(list(self.cfg.lr)[0]),
            "betas": tuple(self.cfg.betas),
            "eps": self.cfg.eps,
            "weight_decay": self.cfg.weight_decay,
        }


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(AdamOptimizer):
    """The update of fairseq's ``adam`` but for eps, which here is added after the bias correction.

    A parameter without a gradient is left alone, weight decay included.
    Source: Loshchilov & Hutter 2019, arXiv 1711.05101.
    """

    def __init__(self, cfg: FusedAdamWConfig, params: List[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)
