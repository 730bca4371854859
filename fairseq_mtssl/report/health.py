"""Whether each phase of a training learned anything, by rules that were fixed before any run was judged.

Training says it in its log at the end of each phase (tasks/health_watch.py), and the page of a run says it of
the log file; both by the rules here. Criterions log a reference beside each measure: what a model scores that
has learned nothing.

**What is looked at.** Of each phase the training lines of the last quarter of its updates (its last line, if
it has no other), the mean over those that have the measure. Recalls are those of the phase's last validation,
if it came in the second half of the phase. Gradient norm, the share of clipped updates and the wait for data
are means over all of the phase; they decide nothing.

**Clearly better than a reference** is what closes more than a twentieth (GAIN) of the gap between the
reference and what is perfect: an accuracy a above a reference r has a − r > 0.05 · (1 − r), a loss has l <
0.95 · r. The last quarter of a phase holds thousands of frames, so that sampling is no matter; a gain that is
real and tiny is of no use.

**Learned** has

1. a contrastive branch (wav2vec 2.0): accuracy clearly above chance, one over the different candidates that
   are compared, with more than a twentieth of the code book in use (below that it has collapsed);
2. a branch that predicts labels: accuracy clearly above chance, 1/K, and clearly above the share of the most
   frequent label, which is what always saying that label scores;
3. a branch that regresses a teacher: a loss clearly below that of predicting the mean of the targets, targets
   with a variance of 0.01 or more and predictions with one of 0.0001 or more (below that they have
   collapsed);
4. retrieval: R@10, the mean of both directions, above chance by more than two standard errors of sampling
   (`findings.above_chance`); where no validation measured it, or among ten candidates or so, where it cannot
   exceed chance, L_AV clearly below what it is when all scores tie.

A phase learned if all branches that it trained did. A measure without its reference, as in logs written
before these were logged, judges nothing: then it cannot be told.
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
LATE, VALIDATED_LATE = 0.25, 0.5  # shares of a phase's updates, from its end
MIN_CODES = 0.05  # share of the code book
MIN_TARGET_VAR, MIN_PREDICTION_VAR = 0.01, 1e-4  # as the criterions warn by default
LONG_WAIT = 0.2  # share of the time

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
"""What usually helps a branch that did not learn."""
LABEL_SHARES = {"accuracy": "acc", "chance": "chance", "frequent": "frequent"}
"""Shares of the frames: how their keys begin, in percent (`acc_off`), and how they end, as fractions, in
older logs of the joint criterion (`ssl_accuracy`)."""
LABEL_LOSSES = ("loss_off", "loss_off_chance", "loss_off_entropy")


@dataclass(frozen=True)
class Measure:
    """A number of a phase beside a number to judge it by.

    unit: as it follows a number, such as " %". reference, reference_name: what it would be had nothing been
    learned. learned: whether the value is better than the reference by the rules; None without a reference.
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
    """What one branch of the model came to in a phase. verdict: in words; help: what usually helps."""

    name: str
    learned: bool | None
    verdict: str
    measures: tuple[Measure, ...]
    help: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseHealth:
    """One phase. name: of the phase; first_update, last_update: updates done before it and at its end.

    learned: None where it cannot be told. verdict: in words, with the reason where it cannot be told. advice:
    what usually helps, where it did not learn.
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
        """Verdict, numbers and advice, in sentences without the phase's name."""
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
        """The same with the phase's name and updates."""
        return f"{self.name}, updates {self.first_update} to {self.last_update}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """All of it, the sentence included."""
        return {**asdict(self), "sentence": self.sentence}


def phase_healths(log: TrainingLog, phases: Sequence[tuple[int, str]] = ()) -> list[PhaseHealth]:
    """Judge each phase of a run.

    phases: (first update, name) of each, in order, as `training_log.phase_starts` reads them from the log;
        empty: the run is one phase, called training. A phase that the log does not reach is left out.
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
    """Key -> mean over the lines that have a number of it."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.values.items():
            if math.isfinite(value):
                found.setdefault(key, []).append(value)
    return {key: statistics.fmean(numbers) for key, numbers in found.items()}


def _trains(lines: Sequence[Record], branch: str) -> bool:
    """Whether alpha, the weight of L_AV, lets a branch train; a line may hold the end of the phase before."""
    alphas = [line.values["alpha"] for line in lines if "alpha" in line.values]
    if not alphas:
        return True
    return min(alphas) < 1 if branch == "ssl" else max(alphas) > 0


def _ssl_branches(values: Mapping[str, float]) -> list[Branch]:
    """The self-supervised branches whose measures are there."""
    branches = []
    if "contrastive" in values and "ssl_accuracy" in values:
        branches.append(_contrastive(values))
    elif "ssl_accuracy" in values:
        # of a log written before the joint criterion's labels were logged as those of mt4ssl
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
    """values: the keys of LABEL_SHARES, fractions, and of LABEL_LOSSES, nats."""
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
    """A measure beside its reference, and whether it is clearly better; not judged without a reference."""
    value, known = values[key], values.get(reference)
    if known is None:
        return Measure(name, value)
    return Measure(name, value, known, reference_name, is_better(value, known))


def _higher(accuracy: float, reference: float) -> bool:
    return accuracy - reference > GAIN * (1 - reference)


def _lower(loss: float, reference: float) -> bool:
    return loss < (1 - GAIN) * reference


def _all_learned(parts: Iterable[Measure | Branch]) -> bool | None:
    """False if any did not learn, else None if any cannot be told, else True."""
    verdicts = {part.learned for part in parts}
    return False if False in verdicts else None if None in verdicts else True


def _at_chance(learned: bool | None) -> str:
    if learned is None:
        return "cannot be told: the log, written by an older version, has nothing to compare it with"
    return "learned" if learned else "ended at chance"


def _verdict(branches: Sequence[Branch]) -> tuple[bool | None, str]:
    """Of all branches of a phase together, in words too."""
    if not branches:
        return None, "cannot be told: the log has none of the measures that a phase is judged by"
    learned = _all_learned(branches)
    words = {branch.verdict for branch in branches}
    if len(words) == 1:
        return learned, words.pop()
    return learned, "; ".join(f"{branch.name}: {branch.verdict}" for branch in branches)
