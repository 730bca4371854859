"""α · L_AV + (1 − α) · L_AUD.

Source: Khorrami et al. 2023, arXiv 2306.02972, section 2.3; L_AUD: Baevski et al. 2020, arXiv 2006.11477.
"""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.criterions.label_counts import LabelCounts
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
    online_weight: float = field(
        default=1.0, metadata={"help": "weight of the regression in L_AUD of model.ssl=data2vec or mt4ssl"}
    )
    offline_weight: float = field(
        default=1.0, metadata={"help": "weight of each label set in L_AUD of model.ssl=hubert or mt4ssl"}
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
        online_weight: float = 1.0,
        offline_weight: float = 1.0,
    ) -> None:
        super().__init__(task, margin, gather_negatives)
        self.diversity_weight = diversity_weight
        self.feature_penalty = feature_penalty
        self.online_weight = online_weight
        self.offline_weight = offline_weight
        self._labels = LabelCounts()

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Returns: loss (a mean over the batch, in nats), 1, what to log."""
        ssl = self.ssl_weight > 0
        vgs = self.vgs_weight > 0 or (not model.training and sample["net_input"].get("images") is not None)
        given = {"ids": sample["id"], "extra": sample.get("extra"), "labels": sample.get("labels")}
        out = model(**sample["net_input"], **given, vgs=vgs, ssl=ssl)
        log = self._log(sample)
        terms = []
        if ssl:
            loss_ssl = self.ssl_loss(out["ssl"], log)
            log["loss_ssl"] = loss_ssl.detach()
            terms.append(self.ssl_weight * loss_ssl)
        if self.vgs_weight > 0:
            terms.append(self.vgs_weight * self.vgs_loss(model, out, sample, log))
        if vgs and not model.training:
            log["embeddings"] = self.embeddings(out, sample)
        loss = sum(terms[1:], terms[0])
        log["loss"] = loss.detach()
        return loss, 1, log

    def ssl_loss(self, outputs: list[Any], log: dict[str, Any]) -> Tensor:
        """L_AUD = mean CE + diversity · (V − perplexity) / V + penalty · mean(features²).

        outputs: of the paired batch and, if there is one, of the speech-only batch; the cross-entropies are
        averaged over all masked frames of both, the other terms over the two. Adds to ``log``.
        """
        if isinstance(outputs[0], dict):
            return self.masked_prediction_loss(outputs, log)
        frames = sum(output.frames for output in outputs) or 1
        share = 1.0 / len(outputs)
        contrastive: Tensor = sum(output.contrastive * (output.frames / frames) for output in outputs)
        diversity = sum((output.codes - output.perplexity) / output.codes for output in outputs)
        penalty = sum(output.penalty for output in outputs)
        log["contrastive"] = contrastive.detach()
        for key, name in (
            ("contrastive_chance", "contrastive_chance"),
            ("ssl_accuracy", "correct"),
            ("ssl_chance", "correct_chance"),
        ):
            log[key] = sum(getattr(output, name) * (output.frames / frames) for output in outputs)
        log["codes"] = outputs[0].codes
        log["code_perplexity"] = share * sum(output.perplexity.detach() for output in outputs)
        log["temp"] = outputs[0].temperature
        return contrastive + share * (self.diversity_weight * diversity + self.feature_penalty * penalty)

    def masked_prediction_loss(self, outputs: list[dict[str, Any]], log: dict[str, Any]) -> Tensor:
        """L_AUD = w_on · regression + w_off · Σ CE, a mean over the masked frames of all outputs."""
        frames = sum(output["frames"] for output in outputs) or 1
        terms = []
        if "regression" in outputs[0]:
            regression: Tensor = sum(output["regression"] for output in outputs) / frames
            log["loss_on"] = regression.detach()
            log["loss_on_mean"] = sum(output["regression_of_mean"] for output in outputs) / frames
            log["target_var"], log["prediction_var"] = outputs[0]["target_var"], outputs[0]["prediction_var"]
            terms.append(self.online_weight * regression)
        if "classification" in outputs[0]:
            entropy = total(outputs, "classification") / frames
            log["loss_off"] = entropy.detach()
            labelled = total(outputs, "labelled").clamp(min=1)
            log["ssl_accuracy"] = total(outputs, "correct") / labelled
            sets = [self._labels.add(outputs, index) for index in range(len(outputs[0]["labelled"]))]
            for key, name, count in (
                ("ssl_chance", "chance", labelled),
                ("ssl_frequent", "frequent", labelled),
                ("loss_off_chance", "entropy_at_most", frames),
                ("loss_off_entropy", "entropy", frames),
            ):
                log[key] = sum(each[name] for each in sets) / count
            terms.append(self.offline_weight * entropy)
        loss: Tensor = sum(terms[1:], terms[0])
        return loss


def total(outputs: list[dict[str, Any]], name: str) -> Tensor:
    """The sum of a list of scalars, one a label set, over batches."""
    return torch.stack([each for output in outputs for each in output[name]]).sum()
