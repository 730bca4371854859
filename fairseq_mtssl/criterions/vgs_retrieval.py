"""The criterion of visual grounding, L_AV: the contrastive loss between spoken captions and images.

Source: Khorrami et al. 2023, arXiv 2306.02972, section 2.2.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.schedule import BOTH_HALF, StepWeights

MEANS = ("loss", "loss_vgs", "loss_ssl", "loss_vgs_chance")
"""The values that are logged as means over the batches that have them."""


@dataclass
class VgsRetrievalCriterionConfig(FairseqDataclass):
    margin: float = field(
        default=1.0,
        metadata={"help": "subtracted from the scores of true pairs; only with dot products as scores"},
    )
    gather_negatives: Optional[bool] = field(
        default=None,
        metadata={
            "help": "take negatives from all GPUs; null: true with cosine similarity, false with dot products"
        },
    )


@register_criterion("vgs_retrieval", dataclass=VgsRetrievalCriterionConfig)
class VgsRetrievalCriterion(FairseqCriterion):
    """Computes the contrastive loss over the batch in both directions.

    The task puts the loss weights of the present update into the batch as "step"; in a batch without them (as
    in ``fairseq-validate``) both losses have the weight 0.5.
    """

    def __init__(self, cfg: VgsRetrievalCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        self.margin = cfg.margin
        self.gather_negatives = cfg.gather_negatives

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss (a mean over the batch, in nats), 1, and the logging output."""
        out = model(**sample["net_input"])
        log = self._log(sample, step_of(sample))
        loss = self.vgs_loss(model, out, sample, log)
        log["loss"] = loss.detach()
        if not model.training:
            log["embeddings"] = self.embeddings(out, sample)
        return loss, 1, log

    def vgs_loss(
        self, model: Any, out: dict[str, Any], sample: dict[str, Any], log: dict[str, Any]
    ) -> Tensor:
        """Return L_AV of a batch in nats; adds it to ``log``, and its value at chance."""
        gather = self.gather_negatives if model.training else False
        loss: Tensor
        loss, log["loss_vgs_chance"] = model.vgs_loss(out, sample["image_group"], self.margin, gather)
        log["loss_vgs"] = loss.detach()
        return loss

    def _log(self, sample: dict[str, Any], step: StepWeights) -> dict[str, Any]:
        return {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": 1,
            "alpha": step.vgs_weight,
            "phase": step.phase,
        }

    @staticmethod
    def embeddings(out: dict[str, Any], sample: dict[str, Any]) -> dict[str, Tensor]:
        """Return, on the CPU, what the task needs to measure retrieval over the whole validation set."""
        return {
            "speech": out["speech"].float().cpu(),
            "image": out["image"].float().cpu(),
            "id": sample["id"].cpu(),
            "image_index": out["image_index"].cpu(),
            "image_row": sample["image_row"].cpu(),
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over batches; a loss that no batch has is not logged."""
        batches = sum(log.get("sample_size", 0) for log in logging_outputs)
        for key in MEANS:
            values = [log[key] for log in logging_outputs if key in log]
            if values:
                total = sum(float(value) if not torch.is_tensor(value) else value for value in values)
                metrics.log_scalar(key, total / len(values), batches, round=4)
        for key, places in (("alpha", 3), ("phase", 0)):
            values = [log[key] for log in logging_outputs if key in log]
            if values:
                metrics.log_scalar(key, values[-1], weight=0, round=places)


def step_of(sample: dict[str, Any]) -> StepWeights:
    """Return the loss weights of a batch."""
    return sample.get("step", BOTH_HALF)
