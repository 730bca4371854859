"""The criterion of the phone probe: cross-entropy of each frame's phone, or CTC of the phone sequence.

Validation measures accuracy and macro-F1 of frames, or the phone error rate of sequences.
"""

from dataclasses import dataclass
from typing import Any, List, Tuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from fairseq_mtssl.evaluation.phone_scores import PhoneCounts, phone_edits
from fairseq_mtssl.frames import UNLABELLED

BLANK = 0
"""Index of the CTC blank; phone p has the index p + 1."""


@dataclass
class PhonemeProbeCriterionConfig(FairseqDataclass):
    """Without fields: model.head decides which of the two losses is used."""


@register_criterion("phoneme_probe", dataclass=PhonemeProbeCriterionConfig)
class PhonemeProbeCriterion(FairseqCriterion):
    """Returns sums over labelled frames or phones; fairseq divides by their number over all ranks."""

    def forward(self, model: Any, sample: dict[str, Any]) -> Tuple[Tensor, int, dict[str, Any]]:
        """Return the loss (a sum, in nats), the number of labelled frames or phones, and logging output."""
        out = model(**sample["net_input"])
        logits, lengths, target = out["logits"].float(), out["lengths"], sample["target"]
        log: dict[str, Any] = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"]}
        if model.is_ctc:
            loss = _ctc_loss(logits, lengths, target, sample["target_lengths"])
            if not model.training:
                log["edits"], log["phones"] = phone_edits(
                    [row[row != UNLABELLED].tolist() for row in target], decode(logits, lengths)
                )
        else:
            labelled = target != UNLABELLED
            # (B, T, phones) -> (N, phones): labelled frames only
            kept, labels = logits[labelled], target[labelled]
            loss = torch.nn.functional.cross_entropy(kept, labels, reduction="sum")
            predicted = kept.detach().argmax(-1)
            log["correct"] = int((predicted == labels).sum())
            if not model.training:
                log["counts"] = PhoneCounts.of(predicted.cpu().numpy(), labels.cpu().numpy(), logits.size(-1))
        size = sample["ntokens"]
        return loss, size, {"loss": float(loss.detach()), "sample_size": size, **log}

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[dict[str, Any]]) -> None:
        """Log loss in nats per frame or phone, and accuracy, macro_f1 and per in percent over all batches."""

        def total(name: str) -> Any:
            return sum(log.get(name, 0) for log in logging_outputs)

        size = total("sample_size")
        metrics.log_scalar("loss", total("loss") / (size or 1), size, round=4)
        if any("correct" in log for log in logging_outputs):
            metrics.log_scalar("accuracy", 100.0 * total("correct") / (size or 1), size, round=3)
        counts = [log["counts"] for log in logging_outputs if "counts" in log]
        if counts:
            # a resumed training can only read fairseq's own kinds of meters, so the counts go in as a tensor
            metrics.log_scalar_sum("_counts", torch.from_numpy(sum(counts[1:], counts[0]).table()))
            metrics.log_derived("macro_f1", lambda meters: _macro_f1(meters["_counts"].sum))
        if any("edits" in log for log in logging_outputs):
            phones = total("phones")
            metrics.log_scalar("per", 100.0 * total("edits") / (phones or 1), phones, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return False: `PhoneCounts` are gathered as objects."""
        return False


def _macro_f1(counts: Tensor) -> float:
    """Return macro-F1 in percent. counts: (3, phones), from `PhoneCounts.table`."""
    return round(PhoneCounts(*counts.cpu().numpy()).macro_f1(), 3)


def _ctc_loss(logits: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor) -> Tensor:
    """Return the sum over utterances in nats; an utterance with too few frames for its phones adds 0."""
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's CTC is not deterministic
        spelled = (target + 1).clamp(min=BLANK)
        loss: Tensor = torch.nn.functional.ctc_loss(
            *(log_probs, spelled, lengths, target_lengths), blank=BLANK, reduction="sum", zero_infinity=True
        )
    return loss


def decode(logits: Tensor, lengths: Tensor) -> List[List[int]]:
    """Decode logits (B, T, 1 + phones) greedily to one sequence of phones per utterance."""
    best = logits.detach().argmax(-1).cpu()
    runs = [row[:length].unique_consecutive() for row, length in zip(best, lengths.tolist())]
    return [(run[run != BLANK] - 1).tolist() for run in runs]
