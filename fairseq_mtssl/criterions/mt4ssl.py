"""w_on · regression of the teacher's layers + w_off · cross-entropy of the cluster labels.

Source: Ma et al. 2023, arXiv 2211.07321, section 2.3.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_mtssl.criterions.label_counts import LabelCounts
from fairseq_mtssl.errors import ConfigError

logger = logging.getLogger(__name__)

VARIANCES = ("target_var", "prediction_var", "feature_var")

LABEL_MEANS = (
    ("loss_off", "loss_off", 1.0, 4),
    ("acc_off", "correct", 100.0, 2),
    # what is known without learning anything, to judge the others by (report/health.py)
    ("chance_off", "chance", 100.0, 2),
    ("frequent_off", "frequent", 100.0, 2),
    ("loss_off_entropy", "entropy", 1.0, 4),
    ("loss_off_chance", "entropy_at_most", 1.0, 4),
)
"""Logged of each label set: key, sum over its labelled frames that it is the mean of, factor, decimals."""


@dataclass
class Mt4sslCriterionConfig(FairseqDataclass):
    online_weight: float = field(
        default=1.0, metadata={"help": "weight of the regression, above 0; model.online=false turns it off"}
    )
    offline_weight: float = field(
        default=1.0,
        metadata={"help": "weight of each label set's cross-entropy, above 0; task.labels=[] turns it off"},
    )
    unmasked_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of each label set's mean cross-entropy at the frames that are not masked, "
            "beside that at the masked ones (HuBERT's pred_nomask_weight)"
        },
    )
    collapse_check_updates: int = field(
        default=500, metadata={"help": "look at the variances every so many updates; 0: never"}
    )
    min_target_var: float = field(
        default=0.01, metadata={"help": "warn when the targets' variance falls below this"}
    )
    min_prediction_var: float = field(
        default=1e-4, metadata={"help": "warn when the predictions' variance falls below this"}
    )
    min_feature_var: float = field(
        default=1e-4, metadata={"help": "warn when the normalised conv features' variance falls below this"}
    )


@register_criterion("mt4ssl", dataclass=Mt4sslCriterionConfig)
class Mt4sslCriterion(FairseqCriterion):
    """Sums over masked frames; fairseq divides by their number over all ranks and batches of an update."""

    def __init__(
        self,
        task: FairseqTask,
        online_weight: float = 1.0,
        offline_weight: float = 1.0,
        unmasked_weight: float = 0.0,
        collapse_check_updates: int = 500,
        min_target_var: float = 0.01,
        min_prediction_var: float = 1e-4,
        min_feature_var: float = 1e-4,
    ) -> None:
        super().__init__(task)
        faults = [
            f"{name} {weight}: wanted above 0; turn that target off with {cure}"
            for name, weight, cure in (
                ("online_weight", online_weight, "model.online=false"),
                ("offline_weight", offline_weight, "task.labels=[]"),
            )
            if not weight > 0
        ]
        if unmasked_weight < 0:
            faults.append(f"unmasked_weight {unmasked_weight}: wanted 0 or more")
        if faults:
            raise ConfigError("criterion", faults)
        self.online_weight = online_weight
        self.offline_weight = offline_weight
        self.unmasked_weight = unmasked_weight
        self.collapse_check_updates = collapse_check_updates
        self.floors = dict(zip(VARIANCES, (min_target_var, min_prediction_var, min_feature_var), strict=True))
        self._checked = 0
        self._labels = LabelCounts()

    def forward(self, model: Any, sample: dict[str, Any]) -> tuple[Tensor, int, dict[str, Any]]:
        """Returns: loss (a sum over masked frames), masked frames, what to log (sums, on the device)."""
        unmasked = self.unmasked_weight > 0
        out = model(**sample["net_input"], ids=sample["id"], labels=sample.get("labels"), unmasked=unmasked)
        frames = out["frames"]
        terms = []
        log: dict[str, Any] = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": frames,
        }
        if "regression" in out:
            terms.append(self.online_weight * out["regression"])
            log["loss_on"] = out["regression"].detach()
            log["loss_on_mean"] = out["regression_of_mean"]
        if "identified" in out:
            log["identified"] = out["identified"]
        if "classification" in out:
            terms.append(self.offline_weight * sum(out["classification"]))
            for index, loss in enumerate(out["classification"]):
                log[f"loss_off_{index}"] = loss.detach()
                log[f"correct_{index}"] = out["correct"][index]
                log[f"labelled_{index}"] = out["labelled"][index]
                known = self._labels.add([out], index)
                log.update({f"{name}_{index}": value for name, value in known.items()})
        if "classification_unmasked" in out:
            terms.append(self.unmasked_weight * frames * sum(out["classification_unmasked"]))
        if not terms:
            raise ConfigError("task.labels", ["the batch has no labels and the model no online targets"])
        loss = sum(terms[1:], terms[0])
        log["loss"] = loss.detach()
        # Times the frames, so that they are summed and averaged with everything else in one reduction.
        log.update({name: out[name] * frames for name in VARIANCES if name in out})
        if model.training:
            self._watch(out, int(model.num_updates))
        return loss, frames, log

    def _watch(self, out: dict[str, Any], update: int) -> None:
        """Warn, at the interval, of variances that fall; the only place that waits for the device."""
        every = self.collapse_check_updates
        if every <= 0 or update == self._checked or update % every:
            return
        self._checked = update
        names = [name for name in VARIANCES if name in out]
        values = torch.stack([out[name].float() for name in names]).tolist()
        for text in collapse_warnings(dict(zip(names, values, strict=True)), self.floors):
            logger.warning("update %d: %s", update, text)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Means over masked frames: losses in nats, accuracies in percent."""

        def total(name: str) -> Any:
            return sum(log.get(name, 0) for log in logging_outputs)

        names = {name for log in logging_outputs for name in log}
        frames = total("sample_size") or 1
        for name in ("loss", "loss_on", "loss_on_mean", *VARIANCES):
            if name in names:
                metrics.log_scalar(name, total(name) / frames, frames, round=4)
        if "identified" in names:
            metrics.log_scalar("acc_on", 100.0 * total("identified") / frames, frames, round=2)
        sets = sorted(name.removeprefix("labelled_") for name in names if name.startswith("labelled_"))
        for index in sets:
            tail = "" if len(sets) == 1 else f"_{index}"
            labelled = total(f"labelled_{index}")
            labelled = labelled.clamp(min=1) if torch.is_tensor(labelled) else max(labelled, 1)
            for key, name, factor, places in LABEL_MEANS:
                value = factor * total(f"{name}_{index}") / labelled
                metrics.log_scalar(f"{key}{tail}", value, frames, round=places)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def collapse_warnings(variances: dict[str, float], floors: dict[str, float]) -> list[str]:
    """What to say of variances below their floors: what it means, and what to change."""
    meaning = {
        "target_var": "the teacher makes nearly the same target of every frame. Lower optimization.lr or "
        "lengthen its warm-up, raise model.ema_decay, or add cluster labels (task.labels)",
        "prediction_var": "the student predicts nearly the same for every frame. Lower optimization.lr, or "
        "give criterion.offline_weight more weight",
        "feature_var": "the convolutions make nearly the same of all audio. Lower optimization.lr or "
        "model.feature_grad_mult, and listen to the audio",
    }
    # `not ≥` so that NaN is told of too
    return [
        f"{name} is {value:.3g}, below {floors[name]:.3g}: {meaning[name]}"
        for name, value in variances.items()
        if not value >= floors[name]
    ]
