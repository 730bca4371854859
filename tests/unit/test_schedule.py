"""Schedules against hand arithmetic and a slow oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.schedule import (
    SCHEDULES,
    Schedule,
    lr_course,
    parse_length,
    parse_phases,
    parse_schedule,
    run_length,
)


def two_phases(**second: object) -> Schedule:
    phases = parse_phases(
        [
            {"name": "first", "alpha": 0.0, "length": "20 epochs", "warmup": 0.1},
            {"name": "second", "alpha": 1.0, "length": "rest", "warmup": 0.1, **second},
        ]
    )
    return Schedule.resolve(phases, total=700, updates_per_epoch=10)


def test_alpha_changes_exactly_at_the_phase_boundary() -> None:
    schedule = two_phases()
    assert (schedule.at(199).vgs_weight, schedule.at(199).ssl_weight) == (0.0, 1.0)
    assert (schedule.at(200).vgs_weight, schedule.at(200).ssl_weight) == (1.0, 0.0)
    assert schedule.at(199).name == "first" and schedule.at(200).name == "second"


def test_the_learning_rate_restarts_with_a_phase_that_resets_it() -> None:
    schedule = two_phases()
    # 200 updates, 20 of warm-up: update 0 has 1/20, update 19 has the peak, update 199 has 1/181
    assert schedule.at(0).lr_factor == pytest.approx(1 / 20)
    assert schedule.at(19).lr_factor == 1.0
    assert schedule.at(20).lr_factor == pytest.approx(180 / 181)
    assert schedule.at(199).lr_factor == pytest.approx(1 / 181)
    # 500 updates, 50 of warm-up
    assert schedule.at(200).lr_factor == pytest.approx(1 / 50)
    assert schedule.at(249).lr_factor == 1.0
    assert schedule.at(699).lr_factor == pytest.approx(1 / 451)


def test_a_longer_course_is_cut_where_its_phase_ends() -> None:
    phases = parse_schedule("w2v2_vgs", ["20 epochs", "rest"], first_course="100 %")
    schedule = Schedule.resolve(phases, total=700, updates_per_epoch=10)
    # the first course has 700 updates, 70 of warm-up, and is cut after 200; the second has 500, 50 of warm-up
    assert schedule.at(0).lr_factor == pytest.approx(1 / 70)
    assert schedule.at(69).lr_factor == 1.0
    assert schedule.at(199).lr_factor == pytest.approx((701 - 200) / 631)
    assert schedule.at(200).lr_factor == pytest.approx(1 / 50)
    assert schedule.at(699).lr_factor == pytest.approx(1 / 451)
    in_epochs = parse_schedule("w2v2_vgs", ["20 epochs", "rest"], first_course="70 epochs")
    assert Schedule.resolve(in_epochs, 700, 10).at(150) == schedule.at(150)
    # a resumed run compares schedules by repr, and the phases begin at the same updates
    assert repr(phases) == repr(parse_schedule("w2v2_vgs", ["20 epochs", "rest"]))


def test_a_single_phase_has_a_course_of_its_own() -> None:
    assert parse_schedule("vgs", ["rest"], first_course="100 %") == parse_schedule("vgs", ["rest"])


def test_impossible_courses_are_refused() -> None:
    short = parse_phases([{"alpha": 0, "length": 30, "course": 20}, {"alpha": 1, "length": "rest"}])
    with pytest.raises(ConfigError, match="has 20 updates, but must last for 30"):
        Schedule.resolve(short, total=60, updates_per_epoch=10)
    for wrong in ({"course": "rest"}, {"course": 90, "reset": []}):
        with pytest.raises(ConfigError, match="phase 2: course"):
            parse_phases([{"alpha": 0, "length": 30}, {"alpha": 1, "length": "rest", **wrong}])


def test_a_phase_without_the_lr_reset_continues_the_course() -> None:
    schedule = two_phases(reset=["optimizer"], lr_scale=0.5)
    whole = [lr_course(update, 700, 0.1, "linear") for update in range(700)]
    got = [schedule.at(update).lr_factor for update in range(700)]
    assert got[:200] == pytest.approx(whole[:200])
    assert got[200:] == pytest.approx([0.5 * factor for factor in whole[200:]])


@given(
    length=st.integers(1, 400),
    warmup=st.floats(0, 0.99),
    decay=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_the_course_rises_to_the_peak_once_and_never_reaches_zero(
    length: int, warmup: float, decay: str
) -> None:
    course = [lr_course(update, length, warmup, decay) for update in range(length)]
    peak = course.index(max(course))
    assert all(a < b for a, b in zip(course[:peak], course[1 : peak + 1], strict=True))
    assert all(a >= b for a, b in zip(course[peak:], course[peak + 1 :], strict=False))
    assert min(course) > 0 and max(course) <= 1.0
    assert max(course) == pytest.approx(1.0)


def test_alpha_ramps_from_the_first_to_the_last_update_of_a_phase() -> None:
    phases = parse_phases([{"alpha": [0.0, 1.0], "length": "11 updates"}])
    schedule = Schedule.resolve(phases, total=11, updates_per_epoch=5)
    assert [schedule.at(update).vgs_weight for update in range(11)] == pytest.approx(
        [i / 10 for i in range(11)]
    )
    assert all(schedule.at(u).ssl_weight + schedule.at(u).vgs_weight == pytest.approx(1) for u in range(11))


def oracle(starts: list[int], lengths: list[int], update: int) -> int:
    """Find the phase of an update by counting through all updates of all phases."""
    owner: list[int] = []
    for index, length in enumerate(lengths):
        owner += [index] * length
    return owner[update]


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_the_phase_of_every_update_equals_that_of_counting_through_all(lengths: list[int]) -> None:
    phases = parse_phases([{"alpha": 0.5, "length": f"{length} updates"} for length in lengths])
    schedule = Schedule.resolve(phases, total=sum(lengths), updates_per_epoch=1)
    for update in range(sum(lengths)):
        assert schedule.at(update).phase == oracle(list(schedule.starts), lengths, update)
    assert schedule.at(sum(lengths) + 5).phase == len(lengths) - 1


def test_lengths_are_updates_epochs_shares_or_the_rest() -> None:
    assert parse_length("7 epochs").updates(1000, 30) == 210
    assert parse_length("0.5 epochs").updates(1000, 30) == 15
    assert parse_length("40 %").updates(1000, 30) == 400
    assert parse_length(12).updates(1000, 30) == 12
    assert parse_length("1 update").updates(1000, 30) == 1
    assert parse_length("rest").updates(1000, 30) is None
    for wrong in ("0 epochs", "-3", "seven", "1.5 updates", ""):
        with pytest.raises(ValueError, match="length"):
            parse_length(wrong)


def test_the_paper_has_nine_variants() -> None:
    assert len(SCHEDULES) == 9
    for names in SCHEDULES:
        phases = parse_schedule("_".join(names), ["20 epochs", "rest"] if len(names) == 2 else ["rest"])
        assert tuple(phase.name for phase in phases) == names
    assert [phase.alpha[0] for phase in parse_schedule("vgsplus_w2v2", [1, 1])] == [0.5, 0.0]


def test_every_error_of_every_phase_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_phases(
            [
                {"alpha": 2, "length": "3 epochs", "decay": "steep"},
                {"alhpa": 0, "length": "3 epochs"},
                {"alpha": 0, "length": "soon"},
                {"alpha": 0, "length": 3, "reset": ["weights"]},
            ]
        )
    text = str(caught.value)
    for part in (
        "phase 1: alpha 2",
        "steep",
        "phase 2: unknown key alhpa",
        "phase 3: length 'soon'",
        "weights",
    ):
        assert part in text


def test_phases_must_fill_the_run() -> None:
    phases = parse_phases([{"alpha": 0, "length": 30}, {"alpha": 1, "length": 30}])
    with pytest.raises(ConfigError, match="end at update 60, the run at update 100"):
        Schedule.resolve(phases, total=100, updates_per_epoch=10)
    with pytest.raises(ConfigError, match="'phase2' has 0 updates"):
        Schedule.resolve(parse_phases([{"alpha": 0, "length": 10}, {"alpha": 1, "length": "rest"}]), 10, 1)


def test_the_run_ends_at_the_first_limit_and_must_have_one() -> None:
    assert run_length(1000, 0, 30) == 1000
    assert run_length(0, 7, 30) == 210
    assert run_length(100, 7, 30) == 100
    with pytest.raises(ConfigError, match="both 0"):
        run_length(0, 0, 30)


def test_an_epoch_needs_images_only_if_vgs_is_trained_in_it() -> None:
    schedule = two_phases()
    assert not schedule.uses_vgs(0, 199) and schedule.uses_ssl(0, 199)
    assert schedule.uses_vgs(0, 200) and schedule.uses_ssl(199, 250)
    assert schedule.uses_vgs(200, 699) and not schedule.uses_ssl(200, 699)
