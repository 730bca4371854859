"""Weights the losses of a self-supervised branch, logs its measures and warns of collapse.

The criterions `mt4ssl` and `joint_ssl_vgs` share it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from fairseq_mtssl.criterions.label_counts import LabelCounts
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.ssl.base import Loss, Measure, Reduction, SslResult

logger = logging.getLogger(__name__)

VARIANCES = ("target_var", "prediction_var", "feature_var")
COUNT = "_count"
"""Suffix of a measure's name in a logging output, for the count by which its sum is divided."""


@dataclass
class SslLossConfig(FairseqDataclass):
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
    diversity_weight: float = field(
        default=0.1,
        metadata={"help": "weight of the share of unused codebook entries (ssl=wav2vec2)"},
    )
    feature_penalty: float = field(
        default=1.0,
        metadata={
            "help": "weight of the mean square of the conv features (ssl=wav2vec2; fairseq's recipe: 10)"
        },
    )
    # typed Any for the same reason as model.ssl_options
    ssl_weights: Any = field(
        default=None,
        metadata={
            "help": "weights of further losses of a branch by name, as {contrastive: 2}; the weight of a "
            "loss that is not listed is 1"
        },
    )
    collapse_check_updates: int = field(
        default=500, metadata={"help": "updates between two checks of the variances below; 0: no checks"}
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


class SslLoss:
    """Weights and logs what branches return; it counts labels from batch to batch.

    cfg: has the fields of SslLossConfig. Raises: ConfigError naming every invalid weight.
    """

    def __init__(self, cfg: Any) -> None:
        errors = [
            f"{name} {getattr(cfg, name)}: wanted above 0; turn that target off with {hint}"
            for name, hint in (
                ("online_weight", "model.online=false"),
                ("offline_weight", "task.labels=[]"),
            )
            if not getattr(cfg, name) > 0
        ]
        named = {} if cfg.ssl_weights is None else cfg.ssl_weights
        if not (isinstance(named, Mapping) and all(isinstance(x, (int, float)) for x in named.values())):
            errors.append(f"ssl_weights {named}: wanted weights by name, as {{contrastive: 2}}")
            named = {}
        weights = {
            name: getattr(cfg, name) for name in ("unmasked_weight", "diversity_weight", "feature_penalty")
        }
        weights |= {f"ssl_weights.{name}": weight for name, weight in named.items()}
        errors += [f"{name} {weight}: wanted 0 or more" for name, weight in weights.items() if weight < 0]
        if errors:
            raise ConfigError("criterion", errors)
        self.weights = {
            "regression": cfg.online_weight,
            "classification": cfg.offline_weight,
            "classification_unmasked": cfg.unmasked_weight,
            "diversity": cfg.diversity_weight,
            "feature_penalty": cfg.feature_penalty,
            **named,
        }
        self._named = list(named)
        self.is_unmasked_wanted = cfg.unmasked_weight > 0
        self.collapse_check_updates = cfg.collapse_check_updates
        self.floors = {name: float(getattr(cfg, f"min_{name}")) for name in VARIANCES}
        self._labels = LabelCounts()
        self._checked = 0

    def weighted_sum(self, results: Sequence[SslResult], is_sum: bool) -> Tensor:
        """Return the weighted sum of the losses of one batch, or of several batches of one update.

        is_sum: sums over all frames, for fairseq to divide by their number in the update; else the mean over
        frames is returned. A loss that is not over frames counts as its mean over the batches, per frame.
        Raises: ConfigError for results without any loss, and for ssl_weights of losses that they lack.
        """
        known = results[0].losses
        unknown = [name for name in self._named if name not in known]
        if unknown:
            wanted = f"no such loss; this batch has {', '.join(known) or 'none'}"
            raise ConfigError("criterion.ssl_weights", [f"{name}: {wanted}" for name in unknown])
        frames = sum(result.frames for result in results) or 1
        terms = []
        for name in results[0].losses:
            weight = self.weights.get(name, 1.0)
            if weight:
                term = reduced([(result.losses[name], result.frames) for result in results], frames, is_sum)
                terms.append(weight * term)
        if not terms:
            raise ConfigError("task.labels", ["the batch has no labels and the model no online targets"])
        return sum(terms[1:], terms[0])

    def log(self, results: Sequence[SslResult], log: Dict[str, Any], model: Any = None) -> None:
        """Add the measures of these results to a logging output, each as a sum and a count.

        model: the model of the results, if collapse is to be watched for: this is done while it trains.
        """
        by_name: Dict[str, List[Measure]] = {}
        for result in results:
            for name, measure in result.measures.items():
                by_name.setdefault(name, []).append(measure)
        sets = len(results[0].label_counts)
        for index in range(sets):
            suffix = "" if sets == 1 else f"_{index}"
            baselines = self._labels.add([result.label_counts[index] for result in results], index)
            by_name |= {f"{name}{suffix}": [measure] for name, measure in baselines.items()}
        for name, measures in by_name.items():
            log[name] = sum(measure.total for measure in measures)
            log[name + COUNT] = sum(measure.count for measure in measures)
        if model is not None and model.training:
            self.watch(log, int(model.num_updates))

    def watch(self, log: Dict[str, Any], update: int) -> None:
        """Log a warning, at the interval, for each variance below its floor. Waits for the device."""
        interval = self.collapse_check_updates
        if interval <= 0 or update == self._checked or update % interval:
            return
        self._checked = update
        names = [name for name in VARIANCES if name in log]
        if not names:
            return
        values = torch.stack([torch.as_tensor(log[name] / max(log[name + COUNT], 1)) for name in names])
        for text in collapse_warnings(dict(zip(names, values.tolist(), strict=True)), self.floors):
            logger.warning("update %d: %s", update, text)


def reduced(losses: Sequence[tuple[Loss, Any]], frames: Any, is_sum: bool) -> Tensor:
    """Reduce one loss over several batches. losses: (loss, frames of its batch); frames: of all batches."""
    reduction = losses[0][0].reduction
    if reduction is Reduction.MEAN:
        values = [loss.value * (count / frames) for loss, count in losses]
    else:
        values = [loss.value for loss, _ in losses]
    total: Tensor = sum(values[1:], values[0])
    if reduction is Reduction.SUM:
        return total if is_sum else total / frames
    mean = total if reduction is Reduction.MEAN else total * (1.0 / len(losses))
    return mean * frames if is_sum else mean


def reduce_measures(logging_outputs: Sequence[Dict[str, Any]], weight: Any) -> None:
    """Log every measure as its sum over batches and processes divided by its count.

    weight: of these updates when fairseq averages over several.
    """
    names = dict.fromkeys(name for log in logging_outputs for name in log if name + COUNT in log)
    for name in names:
        logs = [log for log in logging_outputs if name in log]
        total, count = (sum(log[key] for log in logs) for key in (name, name + COUNT))
        count = count.clamp(min=1) if torch.is_tensor(count) else max(count, 1)
        metrics.log_scalar(name, total / count, weight, round=4)


def collapse_warnings(variances: Dict[str, float], floors: Dict[str, float]) -> List[str]:
    """Return a warning for each variance below its floor: what it means, and what to change."""
    meaning = {
        "target_var": "the teacher gives nearly the same target for every frame. Lower optimization.lr or "
        "lengthen its warm-up, raise model.ema_decay, or add cluster labels (task.labels)",
        "prediction_var": "the student predicts nearly the same for every frame. Lower optimization.lr, or "
        "give criterion.offline_weight more weight",
        "feature_var": "the feature extractor gives nearly the same output for all audio. Lower "
        "optimization.lr or model.feature_grad_mult, and listen to the audio",
    }
    # `not ≥` rather than `<`, so that NaN is reported too
    return [
        f"{name} is {value:.3g}, below {floors[name]:.3g}: {meaning[name]}"
        for name, value in variances.items()
        if not value >= floors[name]
    ]
