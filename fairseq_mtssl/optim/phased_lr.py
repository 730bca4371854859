"""The learning-rate scheduler that leaves the learning rate to the task's phases."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler


@dataclass
class PhasedLRSchedulerConfig(FairseqDataclass):
    pass


@register_lr_scheduler("phased", dataclass=PhasedLRSchedulerConfig)
class PhasedLRScheduler(FairseqLRScheduler):
    """Passive: the task sets the rate of each update from its schedule.

    Only the task knows the data, hence an epoch's length, hence where a phase measured in epochs
    begins; this scheduler reports what the task has set.
    """

    def __init__(self, cfg: PhasedLRSchedulerConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore: the rate follows from the update number."""

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        return self.optimizer.get_lr()
