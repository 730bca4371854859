"""Rules that decide whether each phase of a training learned anything, fixed before any run was judged.

A training logs the verdict at the end of each phase (tasks/health_watch.py), and the page of a run shows the
verdict that follows from the log file. Beside each measure, criterions log a reference: the value of a model
that has learned nothing.

**Which values are judged.** Measures of training are the means over the training lines in the last quarter
of the phase's updates, or its last line where that quarter has none. Recalls are those of the last validation
of the phase, if it came in the second half of the phase. Gradient norm, share of clipped updates and waiting
time for data are means over the whole phase; they are shown and decide nothing.

**Clearly better than a reference** means that more than a twentieth (GAIN) of the gap between the reference
and a perfect value is closed: for an accuracy a and its reference r, a − r > 0.05 · (1 − r); for a loss l,
l < 0.95 · r. Sampling error is ignored because the last quarter of a phase holds thousands of frames, and a
gain below this bound is of no use even where it is real.

**A branch learned if**

1. contrastive (wav2vec 2.0): its accuracy is clearly above chance, which is one over the number of different
   candidates that are compared, and more than a twentieth of the code book is in use (with less, the code
   book has collapsed);
2. prediction of labels: its accuracy is clearly above chance, 1/K, and clearly above the share of the most
   frequent label, which is the accuracy of always predicting that label;
3. regression of a teacher: its loss is clearly below that of predicting the mean of the targets, the targets
   have a variance of 0.01 or more and the predictions one of 0.0001 or more (below that they collapsed);
4. retrieval: R@10, the mean of both directions, is above chance by more than two standard errors of sampling
   (`findings.above_chance`). L_AV must be clearly below its value when all scores tie where no validation
   measured R@10, or where there are so few candidates that R@10 cannot exceed chance (about ten).

A phase learned if all branches that it trained did. A measure without its reference, as in logs written
before references were logged, is not judged; the verdict then is that it cannot be told.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fairseq_mtssl.report.findings import Score, above_chance
from fairseq_mtssl.report.training_log import Record, TrainingLog

GAIN = 0.05
LATE, VALIDATED_LATE = 0.25, 0.5  # the shares of a phase, at its end, that are judged
MIN_CODES = 0.05  # share of the code book
MIN_TARGET_VAR, MIN_PREDICTION_VAR = 0.01, 1e-4  # below these, criterions warn by default
LONG_WAIT = 0.2  # waiting time above which more workers are advised, as a share of the time

LONGER = "more updates (optimization.max_update, task.lengths)"
RATE = "another learning rate or a longer warm-up (optimization.lr, task.warmup or lr_scheduler.phase_ratio)"
FBANK = "filterbanks instead of raw waveforms (model.feature_extractor=fbank with its conv_feature_layers)"
MASKS = "shorter or fewer masked spans (model.mask_length, model.mask_prob)"
WITH_LABELS = "cluster labels beside the teacher (task.labels)"
HELP = {
    "contrastive": (FBANK, LONGER, RATE, MASKS),
    "codes": (
        "a larger criterion.diversity_weight",
        "criterion.feature_penalty=0",
        "a lower optimization.lr",
    ),
    "labels": (FBANK, LONGER, RATE, MASKS, "criterion.unmasked_weight=1"),
    "regression": (LONGER, RATE, "another pace of the teacher (model.ema_decay)", WITH_LABELS),
    "collapse": ("a lower optimization.lr or longer warm-up", "a larger model.ema_decay", WITH_LABELS),
    "retrieval": (FBANK, LONGER, RATE, "a larger model.similarity_temp or batch", "model.vgs_mask_prob=0"),
}
"""Branch, or kind of collapse -> what usually helps."""
LABEL_SHARES = {"accuracy": "acc", "chance": "chance", "frequent": "frequent"}
"""Measures of label prediction -> their keys: the value begins a key in percent, such as `acc_off`; the name
ends a key of older logs of the joint criterion, as a fraction, such as `ssl_accuracy`."""
LABEL_LOSSES = ("loss_off", "loss_off_chance", "loss_off_entropy")


@dataclass(frozen=True)
class Measure:
    """A measure of a phase and the reference that it is judged by.

    unit: the text after the number, such as " %". reference, reference_name: the value if nothing had been
    learned. learned: whether the value is clearly better than the reference; None without a reference.
    """

    name: str
    value: float
    reference: float | None = None
    reference_name: str = ""
    learned: bool | None = None
    unit: str = ""

    def shown(self) -> str:
        """The value with its unit, such as `77.3 %`."""
        return f"{self.value:.3g}{self.unit}"

    def beside(self) -> str:
        """The reference in words, such as `chance 5 %`."""
        return "" if self.reference is None else f"{self.reference_name} {self.reference:.3g}{self.unit}"


@dataclass(frozen=True)
class Branch:
    """The result of a branch of the model in a phase. verdict: as text. help: advice if it did not learn."""

    name: str
    learned: bool | None
    verdict: str
    measures: tuple[Measure, ...]
    help: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseHealth:
    """The result of one phase.

    first_update, last_update: the numbers of updates before the phase and at its end. learned: None if it
    cannot be told. verdict: as text, with the reason if it cannot be told. advice: what usually helps, for
    the branches that did not learn.
    """

    name: str
    first_update: int
    last_update: int
    learned: bool | None
    verdict: str
    measures: tuple[Measure, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Verdict, measures and advice in sentences, without the phase's name."""
        beside: dict[str, list[str]] = {}
        for measure in self.measures:
            beside.setdefault(f"{measure.name} {measure.shown()}", []).append(measure.beside())
        numbers = ", ".join(
            f"{value} ({', '.join(references)})" if any(references) else value
            for value, references in beside.items()
        )
        parts = [self.verdict, *([numbers[0].upper() + numbers[1:]] if numbers else [])]
        if self.advice:
            parts.append(f"What usually helps: {'; '.join(self.advice)}")
        return ". ".join(parts) + "."

    @property
    def sentence(self) -> str:
        """`text`, with the name and the updates of the phase before it."""
        return f"{self.name}, updates {self.first_update} to {self.last_update}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """All fields and `sentence`."""
        return {**asdict(self), "sentence": self.sentence}


def phase_healths(log: TrainingLog, phases: Sequence[tuple[int, str]] = ()) -> list[PhaseHealth]:
    """Judge each phase of a run.

    phases: (first update, name) of each phase in order, as `training_log.phase_starts` reads them from the
        log. If empty, the run is one phase with the name "training". Phases that the log does not reach are
        left out.
    """
    last = log.last_update
    begun = [(start, name) for start, name in phases if start < last] or [(0, "training")]
    ends = [*(start for start, _ in begun[1:]), last]
    return [_judge(log, name, start, end) for (start, name), end in zip(begun, ends, strict=True)]


def _judge(log: TrainingLog, name: str, start: int, end: int) -> PhaseHealth:
    within = [record for record in log.records if start < record.updates <= end]
    lines = [record for record in within if record.kind == "train_inner"]
    lines = lines or [record for record in within if record.kind == "train"]
    if not lines:
        why = "cannot be told: the log has no training line of these updates; lower common.log_interval"
        return PhaseHealth(name, start, end, None, why)
    late = [line for line in lines if line.updates > end - LATE * (end - start)] or lines[-1:]
    values = _means(late)
    validated = [
        record.values
        for record in within
        if record.kind == "valid" and record.updates > end - VALIDATED_LATE * (end - start)
    ]
    recalls = validated[-1] if validated else {}
    branches = [
        *(_ssl_branches(values) if _trains(late, "ssl") else []),
        *(_retrieval(values, recalls) if _trains(late, "vgs") else []),
    ]
    learned, verdict = _verdict(branches)
    measures = [measure for branch in branches for measure in branch.measures]
    advice = [text for branch in branches if branch.learned is False for text in branch.help]
    if any(branch.name.startswith("labels") for branch in branches):
        advice = [text for text in advice if text != WITH_LABELS]
    wait = _means(lines).get("data_wait", 0.0)
    if wait > LONG_WAIT:
        advice.append("for the wait for data: more dataset.num_workers")
    measures += _of_the_optimizer(_means(lines))
    return PhaseHealth(name, start, end, learned, verdict, tuple(measures), tuple(dict.fromkeys(advice)))


def _means(lines: Iterable[Record]) -> dict[str, float]:
    """Key -> mean over the lines in which its value is finite."""
    numbers: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.values.items():
            if math.isfinite(value):
                numbers.setdefault(key, []).append(value)
    return {key: statistics.fmean(each) for key, each in numbers.items()}


def _trains(lines: Sequence[Record], branch: str) -> bool:
    """Whether the weight of a branch (`ssl` or `vgs`) was above 0, by alpha, the weight of L_AV.

    The log interval of a line may begin in the phase before; its alpha then lies between those of both.
    """
    alphas = [line.values["alpha"] for line in lines if "alpha" in line.values]
    if not alphas:
        return True
    return min(alphas) < 1 if branch == "ssl" else max(alphas) > 0


def _ssl_branches(values: Mapping[str, float]) -> list[Branch]:
    """The self-supervised branches whose measures were logged."""
    branches = []
    if "contrastive" in values and "ssl_accuracy" in values:
        branches.append(_contrastive(values))
    elif "ssl_accuracy" in values:
        # an older log of the joint criterion, whose keys differed from those of mt4ssl
        shares = {share: values[f"ssl_{share}"] for share in LABEL_SHARES if f"ssl_{share}" in values}
        branches.append(_labels("labels", {**values, **shares}))
    for key in sorted(key for key in values if re.fullmatch(r"acc_off(_\d+)?", key)):
        tail = key.removeprefix("acc_off")
        percents = {share: f"{start}_off{tail}" for share, start in LABEL_SHARES.items()}
        shares = {share: values[name] / 100 for share, name in percents.items() if name in values}
        losses = {loss: values[f"{loss}{tail}"] for loss in LABEL_LOSSES if f"{loss}{tail}" in values}
        branches.append(_labels(f"labels of set {int(tail[1:]) + 1}" if tail else "labels", shares | losses))
    if "loss_on" in values:
        branches.append(_regression(values))
    return branches


def _contrastive(values: Mapping[str, float]) -> Branch:
    accuracy = _measure("contrastive accuracy", values, "ssl_accuracy", "ssl_chance", "chance", _higher)
    loss = _measure(
        "contrastive loss", values, "contrastive", "contrastive_chance", "knowing nothing", _lower
    )
    measures, learned = [accuracy, loss], accuracy.learned
    codes, used = values.get("codes"), values.get("code_perplexity")
    if used is not None:
        in_use = None if codes is None else used > MIN_CODES * codes
        measures.append(Measure("code book entries in use", used, codes, "of", in_use))
        if in_use is False:
            return Branch("contrastive", False, "its code book collapsed", tuple(measures), HELP["codes"])
    return Branch("contrastive", learned, _at_chance(learned), tuple(measures), HELP["contrastive"])


def _labels(name: str, values: Mapping[str, float]) -> Branch:
    """Judge the prediction of labels.

    values: the names of LABEL_SHARES as fractions, and the keys of LABEL_LOSSES in nats.
    """
    what = f"accuracy of {name}"
    measures = [
        _measure(what, values, "accuracy", "chance", "chance", _higher),
        _measure(what, values, "accuracy", "frequent", "always the most frequent", _higher),
    ]
    learned = _all_learned(measures)
    if "loss_off" in values:
        what = f"cross-entropy of {name}"
        measures += [
            _measure(what, values, "loss_off", "loss_off_chance", "all alike", _lower),
            _measure(what, values, "loss_off", "loss_off_entropy", "as frequent as they are", _lower),
        ]
    verdict = _at_chance(learned)
    if measures[0].learned and learned is False:
        verdict = "ended no better than always saying the most frequent label"
    return Branch(name, learned, verdict, tuple(measures), HELP["labels"])


def _regression(values: Mapping[str, float]) -> Branch:
    loss = _measure("regression loss", values, "loss_on", "loss_on_mean", "predicting the mean", _lower)
    measures, collapsed = [loss], []
    for key, name, floor in (
        ("target_var", "variance of the targets", MIN_TARGET_VAR),
        ("prediction_var", "variance of the predictions", MIN_PREDICTION_VAR),
    ):
        if key in values:
            is_spread = values[key] >= floor
            measures.append(Measure(name, values[key], floor, "collapsed below", is_spread))
            collapsed += [] if is_spread else [name.removeprefix("variance of ")]
    if collapsed:
        verdict = f"{' and '.join(collapsed)} collapsed: they hardly differ from frame to frame"
        return Branch("regression", False, verdict, tuple(measures), HELP["collapse"])
    verdict = _at_chance(loss.learned)
    if loss.learned is False:
        verdict = "ended no better than predicting the mean"
    return Branch("regression", loss.learned, verdict, tuple(measures), HELP["regression"])


def _retrieval(values: Mapping[str, float], recalls: Mapping[str, float]) -> list[Branch]:
    if "loss_vgs" not in values:
        return []
    loss = _measure("L_AV", values, "loss_vgs", "loss_vgs_chance", "knowing nothing", _lower)
    if not {"s2i_r10", "i2s_r10"} <= recalls.keys():
        return [Branch("retrieval", loss.learned, _at_chance(loss.learned), (loss,), HELP["retrieval"])]
    recall = statistics.fmean(recalls[f"{way}_r10"] for way in ("s2i", "i2s"))
    measure = Measure("R@10", recall, unit=" %")
    if {"s2i_chance10", "i2s_chance10", "captions"} <= recalls.keys():
        chance = statistics.fmean(recalls[f"{way}_chance10"] for way in ("s2i", "i2s"))
        score = Score(recall, chance, int(recalls["captions"]))
        measure = replace(measure, reference=chance, reference_name="chance", learned=above_chance(score))
        if not above_chance(replace(score, value=100.0)):  # too few candidates to tell
            measure = replace(measure, learned=loss.learned)
    learned = measure.learned
    return [Branch("retrieval", learned, _at_chance(learned), (measure, loss), HELP["retrieval"])]


def _of_the_optimizer(values: Mapping[str, float]) -> list[Measure]:
    named = (
        ("gnorm", "gradient norm", 1, ""),
        ("clip", "clipped updates", 1, " %"),
        ("data_wait", "time without data", 100, " %"),
    )
    return [
        Measure(name, factor * values[key], unit=unit) for key, name, factor, unit in named if key in values
    ]


def _measure(
    name: str,
    values: Mapping[str, float],
    key: str,
    reference: str,
    reference_name: str,
    is_better: Callable[[float, float], bool],
) -> Measure:
    """A measure with its reference, judged by `is_better`; not judged if the reference was not logged."""
    value, known = values[key], values.get(reference)
    if known is None:
        return Measure(name, value)
    return Measure(name, value, known, reference_name, is_better(value, known))


def _higher(accuracy: float, reference: float) -> bool:
    return accuracy - reference > GAIN * (1 - reference)


def _lower(loss: float, reference: float) -> bool:
    return loss < (1 - GAIN) * reference


def _all_learned(parts: Iterable[Measure | Branch]) -> bool | None:
    """False if any part did not learn, else None if any cannot be told, else True."""
    verdicts = {part.learned for part in parts}
    return False if False in verdicts else None if None in verdicts else True


def _at_chance(learned: bool | None) -> str:
    if learned is None:
        return "cannot be told: the log, written by an older version, has nothing to compare it with"
    return "learned" if learned else "ended at chance"


def _verdict(branches: Sequence[Branch]) -> tuple[bool | None, str]:
    """Whether all branches of a phase learned, and the verdict as text."""
    if not branches:
        return None, "cannot be told: the log has none of the measures that a phase is judged by"
    learned = _all_learned(branches)
    words = {branch.verdict for branch in branches}
    if len(words) == 1:
        return learned, words.pop()
    return learned, "; ".join(f"{branch.name}: {branch.verdict}" for branch in branches)
