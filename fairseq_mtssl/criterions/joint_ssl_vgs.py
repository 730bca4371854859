"""The joint loss α · L_AV + (1 − α) · L_AUD of visual grounding (VGS) and self-supervision (SSL).

Source: Khorrami et al. 2023, arXiv 2306.02972, section 2.3; L_AUD: Baevski et al. 2020, arXiv 2006.11477.
"""

from dataclasses import dataclass
from typing import Any

from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.criterions.ssl_loss import SslLoss, SslLossConfig, reduce_measures
from fairseq_mtssl.criterions.vgs_retrieval import VgsRetrievalCriterion, VgsRetrievalCriterionConfig, step_of


@dataclass
class JointSslVgsCriterionConfig(VgsRetrievalCriterionConfig, SslLossConfig):
    """The fields of both losses."""


@register_criterion("joint_ssl_vgs", dataclass=JointSslVgsCriterionConfig)
class JointSslVgsCriterion(VgsRetrievalCriterion):
    """Runs the branches whose weight is above 0, and in validation always VGS, to measure retrieval."""

    def __init__(self, cfg: JointSslVgsCriterionConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        self.ssl = SslLoss(cfg)

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss (a mean over the batch, in nats), 1, and the logging output."""
        step = step_of(sample)
        ssl = step.ssl_weight > 0
        vgs = step.vgs_weight > 0 or (not model.training and sample["net_input"].get("images") is not None)
        inputs = {"ids": sample["id"], "extra": sample.get("extra"), "labels": sample.get("labels")}
        if ssl:
            inputs["unmasked"] = self.ssl.is_unmasked_wanted
        out = model(**sample["net_input"], **inputs, vgs=vgs, ssl=ssl)
        log = self._log(sample, step)
        terms = []
        if ssl:
            loss_ssl = self.ssl.weighted_sum(out["ssl"], is_sum=False)
            log["loss_ssl"] = loss_ssl.detach()
            self.ssl.log(out["ssl"], log, model)
            terms.append(step.ssl_weight * loss_ssl)
        if step.vgs_weight > 0:
            terms.append(step.vgs_weight * self.vgs_loss(model, out, sample, log))
        if vgs and not model.training:
            log["embeddings"] = self.embeddings(out, sample)
        loss = sum(terms[1:], terms[0])
        log["loss"] = loss.detach()
        return loss, 1, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the metrics of VGS and the measures of the self-supervised branch."""
        super().reduce_metrics(logging_outputs)
        reduce_measures(logging_outputs, sum(log.get("sample_size", 0) for log in logging_outputs))
