"""Rules that decide whether runs show the qualitative findings of the paper.

Each finding gets one verdict: shown, not shown or contradicted. The rules were fixed before any run was made.
They use two measures in percent, one number for each run:

- retrieval: R@10, the mean of both directions;
- ABX: the mean of the errors within and across speakers, each at the layer where it is lowest.

**When a difference counts.** The runs of two variants are paired by seed. A difference counts only if it has
the same sign in every seed, and if the absolute value of its mean over the seeds exceeds both

- the spread: the standard deviation of the differences over the seeds (n − 1; with one seed there is none),
- twice the standard error of sampling, sqrt(p(1 − p)/N + q(1 − q)/N), where p and q are the means of the two
  variants as fractions and N is the number of captions (retrieval) or of compared tokens (ABX). More seeds
  do not make it smaller, because all of them are measured on the same N.

With one seed only the second bound applies, and how much seeds differ remains unknown; every verdict
therefore says how many seeds it rests on. Two dependences are not modelled: captions of one image, and tokens
of one word, are not independent, which makes the true error larger; both variants are measured on the same
captions or tokens, which makes it smaller.

**Verdicts.**

1. "A retrieves better than B" and "the error of A is lower than that of B" are shown if the difference counts
   and has the sign that the finding claims, contradicted if it counts and has the other sign, and not shown
   otherwise. "At least as well" is shown if the errors of both VGS and VGS+ are lower; errors that do not
   differ by these rules are not shown.
2. "(VGS, W2V2) falls to chance" is shown if in every seed VGS alone is above chance and (VGS, W2V2) is at
   chance, that is within two standard errors sqrt(c(1 − c)/N) of chance c. It is contradicted if in every
   seed both are above chance, and not shown otherwise.
3. "(VGS+, W2V2) keeps a good part": the part that is kept is (R − c)/(R' − c), where R is the recall of
   (VGS+, W2V2) and R' that of VGS+. The finding is shown if both are above chance in every seed and the mean
   part is at least one half (0.56 by the paper's own numbers). It is contradicted if VGS+ is above chance in
   every seed and (VGS+, W2V2) in none, and not shown otherwise.

A finding is not shown, with the remark "not measured", if its variants lack a measure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairseq_mtssl.report.evaluations import KINDS, Runs

SHOWN, NOT_SHOWN, CONTRADICTED = "shown", "not shown", "contradicted"
SEQUENCE, FORGETTING, KEEPING = "(W2V2, VGS)", "(VGS, W2V2)", "(VGS+, W2V2)"
GOOD_PART = 0.5
BOUND = 2.0  # standard errors


@dataclass(frozen=True)
class Score:
    """One measure of one run. value, chance: in percent. count: the number of captions or tokens."""

    value: float
    chance: float
    count: int


Scores = Mapping[str, Mapping[str, Score]]
"""variant -> seed -> score"""


@dataclass(frozen=True)
class Finding:
    """One finding. verdict: SHOWN, NOT_SHOWN or CONTRADICTED. numbers: the measured numbers, as text."""

    claim: str
    verdict: str
    numbers: str


def judge(retrieval: Scores, abx: Scores) -> list[Finding]:
    """The four findings, in the order of the paper's tables."""
    phones = [_difference(abx, "W2V2", trained, "ABX error") for trained in ("VGS", "VGS+")]
    verdicts = {verdict for verdict, _ in phones}
    return [
        Finding(
            "SSL first, then VGS, retrieves better than VGS alone",
            *_difference(retrieval, SEQUENCE, "VGS", "R@10"),
        ),
        Finding("(VGS, W2V2) falls to chance", *_falls_to_chance(retrieval)),
        Finding("(VGS+, W2V2) keeps a good part of its retrieval", *_keeps_a_good_part(retrieval)),
        Finding(
            "layers that VGS trained discriminate phones at least as well as those of SSL alone",
            verdicts.pop() if len(verdicts) == 1 else NOT_SHOWN,
            "; ".join(numbers for _, numbers in phones),
        ),
    ]


def retrieval_scores(runs: Runs) -> dict[str, dict[str, Score]]:
    """variant -> seed -> R@10 and its chance level, both the mean of both directions."""
    return {
        variant: {
            run.seed: Score(
                statistics.mean(run.retrieval.recalls[key] for key in ("s2i_r10", "i2s_r10")),
                statistics.mean(run.retrieval.chance[key] for key in ("s2i_r10", "i2s_r10")),
                run.retrieval.captions,
            )
            for run in seeds
            if run.retrieval is not None
        }
        for variant, seeds in runs.items()
    }


def abx_scores(runs: Runs) -> dict[str, dict[str, Score]]:
    """variant -> seed -> final ABX error, the mean of within and across speakers, each at its best layer."""
    scores: dict[str, dict[str, Score]] = {variant: {} for variant in runs}
    for variant, seeds in runs.items():
        for run in seeds:
            lowest = [run.final_abx.best(kind) for kind in KINDS] if run.final_abx else []
            errors = [each[1] for each in lowest if each is not None]
            if run.final_abx and errors and len(errors) == len(lowest):
                scores[variant][run.seed] = Score(statistics.mean(errors), 50.0, run.final_abx.tokens)
    return scores


def sampling_error(percents: Sequence[float], counts: Sequence[int]) -> float:
    """Standard error of the difference of two independent shares, or of a single share, in percentage points.

    percents: the shares. counts: the number of trials of each.
    """
    shares = [percent / 100 for percent in percents]
    return 100 * math.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, counts, strict=True)))


def difference_counts(differences: Sequence[float], error: float) -> bool:
    """Whether differences, one for each seed, count by the rules above. error: the sampling error."""
    mean = statistics.mean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    same_sign = all(each > 0 for each in differences) or all(each < 0 for each in differences)
    return same_sign and abs(mean) > max(spread, BOUND * error)


def weigh(pairs: Sequence[tuple[Score, Score]]) -> tuple[str, str]:
    """Judge whether the first of each pair of scores is larger than the second.

    pairs: one for each seed. Returns: the verdict, and the numbers that it rests on as text.
    """
    differences = [one.value - other.value for one, other in pairs]
    means = [statistics.mean(score.value for score in side) for side in zip(*pairs, strict=True)]
    error = sampling_error(means, [pairs[0][0].count, pairs[0][1].count])
    verdict = NOT_SHOWN
    if difference_counts(differences, error):
        verdict = SHOWN if differences[0] > 0 else CONTRADICTED
    spread = f", spread {statistics.stdev(differences):.1f}" if len(differences) > 1 else ""
    numbers = f"difference {statistics.mean(differences):+.1f}{spread}, "
    return verdict, f"{numbers}twice the sampling error {BOUND * error:.1f}; {_seeds(pairs)}"


def _difference(scores: Scores, larger: str, smaller: str, measure: str) -> tuple[str, str]:
    """Rule 1. Returns: verdict and numbers, as the rules below."""
    pairs = _pairs(scores, larger, smaller)
    if not pairs:
        return _not_measured(scores, measure, larger, smaller)
    verdict, numbers = weigh(pairs)
    return verdict, f"{measure} {larger} {_values(pairs, 0)}, {smaller} {_values(pairs, 1)}: {numbers}"


def _falls_to_chance(scores: Scores) -> tuple[str, str]:
    """Rule 2."""
    pairs = _pairs(scores, FORGETTING, "VGS")
    if not pairs:
        return _not_measured(scores, "R@10", FORGETTING, "VGS")
    verdict = NOT_SHOWN
    if all(above_chance(vgs) for _, vgs in pairs):
        if all(_at_chance(forgot) for forgot, _ in pairs):
            verdict = SHOWN
        elif all(above_chance(forgot) for forgot, _ in pairs):
            verdict = CONTRADICTED
    return verdict, _against_chance(pairs, FORGETTING, "VGS")


def _keeps_a_good_part(scores: Scores) -> tuple[str, str]:
    """Rule 3."""
    pairs = _pairs(scores, KEEPING, "VGS+")
    if not pairs:
        return _not_measured(scores, "R@10", KEEPING, "VGS+")
    verdict, numbers = NOT_SHOWN, _against_chance(pairs, KEEPING, "VGS+")
    if all(above_chance(before) for _, before in pairs):
        part = statistics.mean(
            (kept.value - kept.chance) / (before.value - before.chance) for kept, before in pairs
        )
        numbers = f"part kept {part:.2f}, wanted {GOOD_PART}; {numbers}"
        if all(above_chance(kept) for kept, _ in pairs) and part >= GOOD_PART:
            verdict = SHOWN
        elif not any(above_chance(kept) for kept, _ in pairs):
            verdict = CONTRADICTED
    return verdict, numbers


def _pairs(scores: Scores, one: str, other: str) -> list[tuple[Score, Score]]:
    """The scores of both variants, for each seed that both have."""
    ours, theirs = scores.get(one, {}), scores.get(other, {})
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _not_measured(scores: Scores, measure: str, *variants: str) -> tuple[str, str]:
    missing = [variant for variant in variants if not scores.get(variant)]
    lacking = f"no {measure} of {' or '.join(missing)}" if missing else f"no seed has {measure} of both"
    return NOT_SHOWN, f"not measured: {lacking}"


def chance_bound(score: Score) -> float:
    """By how many percentage points a score must differ from chance to count as different."""
    return BOUND * sampling_error([score.chance], [score.count])


def above_chance(score: Score) -> bool:
    """Whether a score is above chance by more than two standard errors of chance."""
    return score.value > score.chance + chance_bound(score)


def _at_chance(score: Score) -> bool:
    return abs(score.value - score.chance) <= chance_bound(score)


def _against_chance(pairs: Sequence[tuple[Score, Score]], one: str, other: str) -> str:
    first = pairs[0][0]
    return (
        f"R@10 {one} {_values(pairs, 0)}, {other} {_values(pairs, 1)}, chance {first.chance:.1f} ± "
        f"{chance_bound(first):.1f}; {_seeds(pairs)}"
    )


def _values(pairs: Sequence[tuple[Score, Score]], side: int) -> str:
    return " / ".join(f"{pair[side].value:.1f}" for pair in pairs)


def _seeds(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} seed{'s' if len(pairs) > 1 else ''}"
