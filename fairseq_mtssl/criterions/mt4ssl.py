"""The criterion of a self-supervised branch on speech alone.

By default the loss is MT4SSL's, w_on · regression + w_off · cross-entropy: Ma et al. 2023, arXiv 2211.07321,
section 2.3.
"""

from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.criterions.ssl_loss import SslLoss, SslLossConfig, reduce_measures


@register_criterion("mt4ssl", dataclass=SslLossConfig)
class Mt4sslCriterion(FairseqCriterion):
    """Returns sums over masked frames; fairseq divides by their number over all ranks of an update."""

    def __init__(self, cfg: SslLossConfig, task: FairseqTask) -> None:
        super().__init__(task)
        self.ssl = SslLoss(cfg)

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss (a sum over masked frames), the number of masked frames, and the logging output.

        Logged values stay tensors on the device.
        """
        result = model(
            **sample["net_input"],
            ids=sample["id"],
            labels=sample.get("labels"),
            unmasked=self.ssl.is_unmasked_wanted,
        )
        loss = self.ssl.weighted_sum([result], is_sum=True)
        log = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": result.frames,
            "loss": loss.detach(),
        }
        self.ssl.log([result], log, model)
        return loss, result.frames, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over masked frames: losses in nats, accuracies in percent."""
        frames = sum(log.get("sample_size", 0) for log in logging_outputs) or 1
        total = sum(log.get("loss", 0.0) for log in logging_outputs)
        metrics.log_scalar("loss", total / frames, frames, round=4)
        reduce_measures(logging_outputs, frames)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
