"""torch's fused AdamW as a fairseq optimizer: one kernel updates all parameters."""

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
    weight_decay: float = field(
        default=0.0, metadata={"help": "decoupled weight decay, multiplied by the learning rate"}
    )
    lr: Any = II("optimization.lr")


class AdamOptimizer(FairseqOptimizer):
    """Base class of the optimizers that are configured by the fields of FusedAdamWConfig."""

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """The settings that replace those saved in a checkpoint when a training is resumed."""
        return {
            "lr": float(list(self.cfg.lr)[0]),
            "betas": tuple(self.cfg.betas),
            "eps": self.cfg.eps,
            "weight_decay": self.cfg.weight_decay,
        }


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(AdamOptimizer):
    """Updates as fairseq's ``adam`` does, except that eps is added after the bias correction.

    A parameter without a gradient stays as it is, without weight decay.
    Source: Loshchilov & Hutter 2019, arXiv 1711.05101.
    """

    def __init__(self, cfg: FusedAdamWConfig, params: List[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)
