"""The paper's qualitative findings, each stated as shown, not shown or contradicted by one set of numbers.

Pure rules, fixed before any run was made. Two measures, in percent, one number a run:

- retrieval: R@10, the mean of both directions;
- ABX: the error at the layer where it is lowest, the mean of within and across speakers.

**What a difference must exceed.** Runs of two variants are paired by seed. A difference counts only if it has
the same sign in every seed, and if its mean over the seeds exceeds both

- the spread: the standard deviation of the differences over the seeds (n − 1; with one seed there is none),
- twice the standard error of sampling: sqrt(p(1 − p)/N + q(1 − q)/N), p and q being the two variants' means
  as fractions, N the captions (retrieval) or the compared tokens (ABX). More seeds do not make it smaller,
  since all of them are measured on the same N.

With one seed the second bound stands alone; what another seed would have given is then not known, and a
verdict says on how many seeds it rests. Captions of one image, and tokens of one word, are not independent
(which makes the true error larger); both variants are measured on the same ones (which makes it smaller);
neither is modelled.

**Verdicts.**

1. "A retrieves better than B", "A's error is lower than B's": shown if the difference counts and has the sign
   that the finding says; contradicted if it counts with the other sign; else not shown. "At least as well" is
   thus shown by an error that is lower, of VGS and of VGS+; errors that cannot be told apart are not shown.
2. "(VGS, W2V2) falls to chance": shown if in every seed VGS alone is above chance and (VGS, W2V2) is at
   chance, that is within two standard errors sqrt(c(1 − c)/N) of it, c being chance; contradicted if in every
   seed both are above chance; else not shown.
3. "(VGS+, W2V2) keeps a good part": the part kept is (R − c)/(R' − c), with R of (VGS+, W2V2), R' of VGS+.
   Shown if both are above chance in every seed and the mean part is at least one half (the paper's own
   numbers give 0.56); contradicted if VGS+ is above chance in every seed and (VGS+, W2V2) in none; else not
   shown.

A finding whose variants lack a measure is not shown, "not measured".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairseq_mtssl.report.evaluations import KINDS, MeasuredRun

SHOWN, NOT_SHOWN, CONTRADICTED = "shown", "not shown", "contradicted"
SEQUENCE, FORGETTING, KEEPING = "(W2V2, VGS)", "(VGS, W2V2)", "(VGS+, W2V2)"
GOOD_PART = 0.5
BOUND = 2.0  # standard errors


@dataclass(frozen=True)
class Score:
    """One measure of one run. value: percent; chance: percent; count: of captions or tokens."""

    value: float
    chance: float
    count: int


Scores = Mapping[str, Mapping[str, Score]]
"""variant -> seed -> score"""


@dataclass(frozen=True)
class Finding:
    """claim: the finding. verdict: SHOWN, NOT_SHOWN or CONTRADICTED. numbers: what it rests on, in words."""

    claim: str
    verdict: str
    numbers: str


def judge(retrieval: Scores, abx: Scores) -> list[Finding]:
    """The four findings, in the order of the paper's tables."""
    phones = [_difference(abx, "W2V2", trained, "ABX error") for trained in ("VGS", "VGS+")]
    verdicts = {finding.verdict for finding in phones}
    return [
        Finding(
            "SSL first, then VGS, retrieves better than VGS alone",
            *_parts(_difference(retrieval, SEQUENCE, "VGS", "R@10")),
        ),
        _falls_to_chance(retrieval),
        _keeps_a_good_part(retrieval),
        Finding(
            "layers that VGS trained discriminate phones at least as well as those of SSL alone",
            verdicts.pop() if len(verdicts) == 1 else NOT_SHOWN,
            "; ".join(finding.numbers for finding in phones),
        ),
    ]


def retrieval_scores(runs: Mapping[str, Sequence[MeasuredRun]]) -> dict[str, dict[str, Score]]:
    """variant -> seed -> R@10, the mean of both directions, and its chance."""
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


def abx_scores(runs: Mapping[str, Sequence[MeasuredRun]]) -> dict[str, dict[str, Score]]:
    """variant -> seed -> ABX error at the end, the mean of within and across, each at its best layer."""
    found: dict[str, dict[str, Score]] = {variant: {} for variant in runs}
    for variant, seeds in runs.items():
        for run in seeds:
            lowest = [run.final_abx.best(kind) for kind in KINDS] if run.final_abx else []
            errors = [each[1] for each in lowest if each is not None]
            if run.final_abx and errors and len(errors) == len(lowest):
                found[variant][run.seed] = Score(statistics.mean(errors), 50.0, run.final_abx.tokens)
    return found


def sampling_error(percents: Sequence[float], counts: Sequence[int]) -> float:
    """Standard error, in points, of the difference of independent shares of so many; of one, of itself."""
    shares = [percent / 100 for percent in percents]
    return 100 * math.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, counts, strict=True)))


def difference_counts(differences: Sequence[float], error: float) -> bool:
    """Whether differences, one a seed, have one sign and a mean above the spread and twice the error."""
    mean = statistics.mean(differences)
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    same_sign = all(each > 0 for each in differences) or all(each < 0 for each in differences)
    return same_sign and abs(mean) > max(spread, BOUND * error)


def weigh(pairs: Sequence[tuple[Score, Score]]) -> tuple[str, str]:
    """Whether the first of each pair, one a seed, is larger than the second: the verdict, and on what."""
    differences = [one.value - other.value for one, other in pairs]
    means = [statistics.mean(score.value for score in side) for side in zip(*pairs, strict=True)]
    error = sampling_error(means, [pairs[0][0].count, pairs[0][1].count])
    verdict = NOT_SHOWN
    if difference_counts(differences, error):
        verdict = SHOWN if differences[0] > 0 else CONTRADICTED
    spread = f", spread {statistics.stdev(differences):.1f}" if len(differences) > 1 else ""
    numbers = f"difference {statistics.mean(differences):+.1f}{spread}, "
    return verdict, f"{numbers}twice the sampling error {BOUND * error:.1f}; {_seeds(pairs)}"


def _difference(scores: Scores, larger: str, smaller: str, measure: str) -> Finding:
    """Judge that one variant's value is larger than another's."""
    pairs = _pairs(scores, larger, smaller)
    if not pairs:
        return _not_measured(scores, measure, larger, smaller)
    verdict, numbers = weigh(pairs)
    return Finding(
        "", verdict, f"{measure} {larger} {_values(pairs, 0)}, {smaller} {_values(pairs, 1)}: {numbers}"
    )


def _falls_to_chance(scores: Scores) -> Finding:
    claim = "(VGS, W2V2) falls to chance"
    pairs = _pairs(scores, FORGETTING, "VGS")
    if not pairs:
        return Finding(claim, *_parts(_not_measured(scores, "R@10", FORGETTING, "VGS")))
    verdict = NOT_SHOWN
    if all(above_chance(vgs) for _, vgs in pairs):
        if all(_at_chance(forgot) for forgot, _ in pairs):
            verdict = SHOWN
        elif all(above_chance(forgot) for forgot, _ in pairs):
            verdict = CONTRADICTED
    return Finding(claim, verdict, _against_chance(pairs, FORGETTING, "VGS"))


def _keeps_a_good_part(scores: Scores) -> Finding:
    claim = "(VGS+, W2V2) keeps a good part of its retrieval"
    pairs = _pairs(scores, KEEPING, "VGS+")
    if not pairs:
        return Finding(claim, *_parts(_not_measured(scores, "R@10", KEEPING, "VGS+")))
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
    return Finding(claim, verdict, numbers)


def _pairs(scores: Scores, one: str, other: str) -> list[tuple[Score, Score]]:
    """Scores of the seeds that both variants have."""
    ours, theirs = scores.get(one, {}), scores.get(other, {})
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _not_measured(scores: Scores, measure: str, *variants: str) -> Finding:
    missing = [variant for variant in variants if not scores.get(variant)]
    lacking = f"no {measure} of {' or '.join(missing)}" if missing else f"no seed has {measure} of both"
    return Finding("", NOT_SHOWN, f"not measured: {lacking}")


def chance_bound(score: Score) -> float:
    """How far from chance a score must be to differ from it, in points."""
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


def _parts(finding: Finding) -> tuple[str, str]:
    return finding.verdict, finding.numbers
