"""The learning-rate scheduler of trainings whose task sets the learning rate."""

from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler


@dataclass
class PhasedLRSchedulerConfig(FairseqDataclass):
    pass


@register_lr_scheduler("phased", dataclass=PhasedLRSchedulerConfig)
class PhasedLRScheduler(FairseqLRScheduler):
    """Reports the learning rate that the task has set for the update from its schedule.

    A phase's length may be given in epochs, and only the task knows how many updates an epoch has.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the learning rate follows from the update number."""

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        return self.optimizer.get_lr()
