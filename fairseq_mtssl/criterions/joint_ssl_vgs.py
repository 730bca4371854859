"""α · L_AV + (1 − α) · L_AUD.

Source: Khorrami et al. 2023, arXiv 2306.02972, section 2.3; L_AUD: Baevski et al. 2020, arXiv 2006.11477.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.criterions.vgs_retrieval import VgsRetrievalCriterion, VgsRetrievalCriterionConfig


@dataclass
class JointSslVgsCriterionConfig(VgsRetrievalCriterionConfig):
    diversity_weight: float = field(
        default=0.1, metadata={"help": "weight of the share of code book entries left unused"}
    )
    feature_penalty: float = field(
        default=1.0,
        metadata={"help": "weight of the mean square of the conv features (fairseq's recipe: 10)"},
    )


@register_criterion("joint_ssl_vgs", dataclass=JointSslVgsCriterionConfig)
class JointSslVgsCriterion(VgsRetrievalCriterion):
    """Runs the branches that have a weight; in validation VGS always, since retrieval is measured."""

    def __init__(
        self,
        task: FairseqTask,
        margin: float = 1.0,
        gather_negatives: Optional[bool] = None,
        diversity_weight: float = 0.1,
        feature_penalty: float = 1.0,
    ) -> None:
        super().__init__(task, margin, gather_negatives)
        self.diversity_weight = diversity_weight
        self.feature_penalty = feature_penalty

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Returns: loss (a mean over the batch, in nats), 1, what to log."""
        ssl = self.ssl_weight > 0
        vgs = self.vgs_weight > 0 or (not model.training and sample["net_input"].get("images") is not None)
        out = model(**sample["net_input"], ids=sample["id"], extra=sample.get("extra"), vgs=vgs, ssl=ssl)
        log = self._log(sample)
        terms = []
        if ssl:
            loss_ssl = self.ssl_loss(out["ssl"], log)
            log["loss_ssl"] = loss_ssl.detach()
            terms.append(self.ssl_weight * loss_ssl)
        if self.vgs_weight > 0:
            loss_vgs = self.vgs_loss(model, out, sample)
            log["loss_vgs"] = loss_vgs.detach()
            terms.append(self.vgs_weight * loss_vgs)
        if vgs and not model.training:
            log["embeddings"] = self.embeddings(out, sample)
        loss = sum(terms[1:], terms[0])
        log["loss"] = loss.detach()
        return loss, 1, log

    def ssl_loss(self, outputs: list[Any], log: dict[str, Any]) -> Tensor:
        """L_AUD = mean CE + diversity · (V − perplexity) / V + penalty · mean(features²).

        outputs: SslOutput of the paired batch and, if there is one, of the speech-only batch; the
        cross-entropies are averaged over all masked frames of both, the other terms over the two.
        Adds to ``log``.
        """
        frames = sum(output.frames for output in outputs) or 1
        share = 1.0 / len(outputs)
        contrastive: Tensor = sum(output.contrastive * (output.frames / frames) for output in outputs)
        diversity = sum((output.codes - output.perplexity) / output.codes for output in outputs)
        penalty = sum(output.penalty for output in outputs)
        log["contrastive"] = contrastive.detach()
        log["ssl_accuracy"] = sum(output.correct * (output.frames / frames) for output in outputs)
        log["code_perplexity"] = share * sum(output.perplexity.detach() for output in outputs)
        log["temp"] = outputs[0].temperature
        return contrastive + share * (self.diversity_weight * diversity + self.feature_penalty * penalty)
