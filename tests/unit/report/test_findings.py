"""The rules of the findings, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from fairseq_mtssl.report import findings
from fairseq_mtssl.report.findings import CONTRADICTED, NOT_SHOWN, SHOWN, Finding, Score
from fairseq_mtssl.report.published import PUBLISHED

CHANCE = 5.0
CAPTIONS = 400


def recalls(**values: list[float]) -> dict[str, dict[str, Score]]:
    """Variant by its schedule -> R@10 of seeds 1, 2, …."""
    names = {"w2v2_vgs": "(W2V2, VGS)", "vgs_w2v2": "(VGS, W2V2)", "plus_w2v2": "(VGS+, W2V2)"}
    names |= {"vgs": "VGS", "plus": "VGS+", "w2v2": "W2V2"}
    return {
        names[key]: {str(seed): Score(value, CHANCE, CAPTIONS) for seed, value in enumerate(found, start=1)}
        for key, found in values.items()
    }


def errors(**values: list[float]) -> dict[str, dict[str, Score]]:
    return {
        variant: {seed: Score(score.value, 50.0, 1600) for seed, score in seeds.items()}
        for variant, seeds in recalls(**values).items()
    }


def judged(retrieval=None, abx=None) -> list[Finding]:
    return findings.judge(retrieval or {}, abx or {})


def test_the_sampling_error_is_that_of_two_shares() -> None:
    # sqrt(.5 · .5 / 100) = 0.05; of two, sqrt(2) as much
    assert findings.sampling_error([50], [100]) == pytest.approx(5.0)
    assert findings.sampling_error([50, 50], [100, 100]) == pytest.approx(7.0710678)
    assert findings.sampling_error([20, 50], [400, 100]) == pytest.approx((4 + 25) ** 0.5)


@pytest.mark.parametrize(
    ("differences", "error", "counts"),
    [
        ([3.0, 4.0, 5.0], 1.0, True),  # mean 4 above spread 1 and bound 2
        ([-3.0, -4.0, -5.0], 1.0, True),
        ([3.0, 4.0, 5.0], 2.0, False),  # 4 is not above twice 2
        ([0.1, 4.0, 7.9], 0.1, True),  # mean 4 above spread 3.9
        ([0.1, 1.0, 10.9], 0.1, False),  # mean 4 below spread 5.99
        ([9.0, 9.0, -0.1], 0.1, False),  # one seed disagrees
        ([9.0, 9.0, 0.0], 0.1, False),
        ([9.0], 4.0, True),
        ([8.0], 4.0, False),
    ],
)
def test_a_difference_counts_by_sign_spread_and_sampling(differences, error, counts) -> None:
    assert findings.difference_counts(differences, error) is counts


def test_pretraining_that_retrieves_better_in_all_seeds_is_shown() -> None:
    # means 50 and 40: twice the error is 2 · sqrt(.25 / 400 + .24 / 400) = 7.0; difference 10, spread 1
    first = judged(recalls(w2v2_vgs=[49, 50, 51], vgs=[40, 40, 40]))[0]
    assert first.verdict == SHOWN
    assert "difference +10.0, spread 1.0, twice the sampling error 7.0; 3 seeds" in first.numbers
    assert "49.0 / 50.0 / 51.0" in first.numbers
    assert judged(recalls(w2v2_vgs=[40, 40, 40], vgs=[49, 50, 51]))[0].verdict == CONTRADICTED
    assert judged(recalls(w2v2_vgs=[49, 50, 39], vgs=[40, 40, 40]))[0].verdict == NOT_SHOWN


def test_one_seed_shows_only_what_sampling_does_not_explain() -> None:
    assert judged(recalls(w2v2_vgs=[46.9], vgs=[40]))[0].verdict == NOT_SHOWN
    shown = judged(recalls(w2v2_vgs=[47.1], vgs=[40]))[0]
    assert shown.verdict == SHOWN and shown.numbers.endswith("1 seed") and "spread" not in shown.numbers


def test_only_seeds_of_both_are_compared() -> None:
    scores = recalls(w2v2_vgs=[50, 50], vgs=[40, 40, 99])
    assert "2 seeds" in judged(scores)[0].numbers
    scores["VGS"] = {"9": Score(40, CHANCE, CAPTIONS)}
    assert judged(scores)[0] == Finding(
        judged()[0].claim, NOT_SHOWN, "not measured: no seed has R@10 of both"
    )


@pytest.mark.parametrize(
    ("forgot", "vgs", "verdict"),
    [
        # chance 5, bound 2 · sqrt(.05 · .95 / 400) = 2.18
        ([5.0, 7.1], [40, 40], SHOWN),
        ([2.9, 5.0], [40, 40], SHOWN),
        ([5.0, 7.3], [40, 40], NOT_SHOWN),
        ([7.3, 9.0], [40, 40], CONTRADICTED),
        ([2.0, 2.0], [40, 40], NOT_SHOWN),  # below chance is not at it
        ([5.0, 5.0], [40, 7.0], NOT_SHOWN),  # there was nothing to fall from
    ],
)
def test_retrieval_is_forgotten_where_its_recall_falls_to_chance(forgot, vgs, verdict) -> None:
    assert judged(recalls(vgs_w2v2=forgot, vgs=vgs))[1].verdict == verdict


@pytest.mark.parametrize(
    ("kept", "before", "verdict"),
    [
        ([25.0], [45.0], SHOWN),  # 20 of 40 points above chance
        ([24.0], [45.0], NOT_SHOWN),
        ([20.0, 30.0], [45.0, 45.0], SHOWN),  # 0.375 and 0.625, mean a half
        ([6.0, 6.0], [45.0, 45.0], CONTRADICTED),
        ([6.0, 12.0], [45.0, 45.0], NOT_SHOWN),
        ([6.0], [6.0], NOT_SHOWN),
    ],
)
def test_retrieval_is_kept_where_half_of_its_points_above_chance_remain(kept, before, verdict) -> None:
    assert judged(recalls(plus_w2v2=kept, plus=before))[2].verdict == verdict


def test_phones_need_both_kinds_of_vgs_to_agree() -> None:
    # p = .3, q = .35, 1600 tokens: twice the error is 3.3
    assert judged(abx=errors(w2v2=[35], vgs=[30], plus=[31]))[3].verdict == SHOWN
    assert judged(abx=errors(w2v2=[35], vgs=[30], plus=[34]))[3].verdict == NOT_SHOWN
    assert judged(abx=errors(w2v2=[35], vgs=[40], plus=[41]))[3].verdict == CONTRADICTED
    equal = judged(abx=errors(w2v2=[35, 35], vgs=[35, 35], plus=[35, 35]))[3]
    assert equal.verdict == NOT_SHOWN and equal.numbers.count("ABX error") == 4 - 2


def test_what_was_not_measured_is_said() -> None:
    found = judged(recalls(vgs=[40]), errors(vgs=[40]))
    assert [each.verdict for each in found] == [NOT_SHOWN] * 4
    assert found[0].numbers == "not measured: no R@10 of (W2V2, VGS)"
    assert found[2].numbers == "not measured: no R@10 of (VGS+, W2V2) or VGS+"
    assert "no ABX error of W2V2" in found[3].numbers


def test_the_papers_own_numbers_show_all_of_them() -> None:
    retrieval = {
        name: {"1": Score((row.s2i_r10 + row.i2s_r10) / 2, 0.2, 25_000)} for name, row in PUBLISHED.items()
    }
    abx = {
        name: {"1": Score((row.within + row.across) / 2, 50.0, 100_000)} for name, row in PUBLISHED.items()
    }
    found = findings.judge(retrieval, abx)
    assert [each.verdict for each in found] == [SHOWN] * 4
    assert "part kept 0.56" in found[2].numbers
