"""Whether a phase learned, judged from logs made up so that each rule can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_mtssl.report.health import PhaseHealth, phase_healths
from fairseq_mtssl.report.training_log import Record, TrainingLog, phase_starts, read_training_log

CONTRASTIVE = {
    **{"alpha": 0.0, "phase": 0.0, "ssl_chance": 0.02, "contrastive_chance": 3.9},
    **{"codes": 128.0, "code_perplexity": 70.0},
}
LABELS = {"chance_off": 1.0, "frequent_off": 20.0, "loss_off": 3.0, "loss_off_entropy": 4.0}
LABELS |= {"loss_off_chance": 4.6}
TEACHER = {"loss_on_mean": 4.0, "target_var": 0.5, "prediction_var": 0.2}
GROUNDING = {"alpha": 1.0, "phase": 1.0, "loss_vgs_chance": 6.93}
RECALLS = {"s2i_chance10": 5.0, "i2s_chance10": 5.0, "captions": 400.0, "images": 200.0}


def inner(updates: int, **values: float) -> Record:
    return Record("train_inner", updates, values)


def valid(updates: int, **values: float) -> Record:
    return Record("valid", updates, values)


def judged(*records: Record, phases: list[tuple[int, str]] | None = None) -> list[PhaseHealth]:
    return phase_healths(TrainingLog(Path("train.log"), records), phases or [])


def judge(*records: Record) -> PhaseHealth:
    (health,) = judged(*records)
    return health


def value(health: PhaseHealth, name: str) -> float:
    return next(measure.value for measure in health.measures if measure.name == name)


def test_a_contrastive_phase_that_is_clearly_above_chance_learned() -> None:
    health = judge(inner(100, ssl_accuracy=0.71, contrastive=1.2, **CONTRASTIVE))
    assert health.learned is True and health.advice == ()
    assert health.sentence == (
        "training, updates 0 to 100: learned. Contrastive accuracy 0.71 (chance 0.02), contrastive loss 1.2 "
        "(knowing nothing 3.9), code book entries in use 70 (of 128)."
    )


@pytest.mark.parametrize(
    ("accuracy", "learned"),
    [
        (0.0200, False),
        (0.0689, False),  # 0.02 + 0.05 · 0.98 = 0.069
        (0.0691, True),
    ],
)
def test_an_accuracy_must_close_a_twentieth_of_the_gap(accuracy: float, learned: bool) -> None:
    health = judge(inner(100, ssl_accuracy=accuracy, contrastive=1.0, **CONTRASTIVE))
    assert health.learned is learned


def test_a_phase_at_chance_is_called_so_with_what_usually_helps() -> None:
    health = judge(inner(100, ssl_accuracy=0.021, contrastive=3.93, gnorm=2.0, clip=100.0, **CONTRASTIVE))
    assert health.learned is False
    assert "ended at chance. Contrastive accuracy 0.021 (chance 0.02)" in health.sentence
    assert "What usually helps: " in health.sentence
    options = ("model.feature_extractor=fbank", "task.lengths", "optimization.lr")
    assert all(option in health.sentence for option in options)
    assert value(health, "gradient norm") == 2.0 and value(health, "clipped updates") == 100.0


def test_a_perfect_accuracy_over_one_code_is_chance() -> None:
    collapsed = {**CONTRASTIVE, "ssl_chance": 1.0, "contrastive_chance": 0.0}
    assert judge(inner(100, ssl_accuracy=1.0, contrastive=0.0, **collapsed)).learned is False


@pytest.mark.parametrize(("used", "learned"), [(6.4, False), (6.5, True)])  # a twentieth of 128
def test_a_code_book_that_is_hardly_used_has_collapsed(used: float, learned: bool) -> None:
    health = judge(inner(100, ssl_accuracy=0.9, contrastive=0.3, **{**CONTRASTIVE, "code_perplexity": used}))
    assert health.learned is learned
    assert learned or ("its code book collapsed" in health.verdict and "diversity" in health.sentence)


@pytest.mark.parametrize(
    ("percent", "learned", "word"),
    [
        (5.5, False, "ended at chance"),  # 1 + 0.05 · 99 = 5.95
        (23.9, False, "always saying the most frequent label"),  # 20 + 0.05 · 80 = 24
        (24.1, True, "learned"),
    ],
)
def test_labels_must_be_told_better_than_by_chance_and_by_the_most_frequent(
    percent: float, learned: bool, word: str
) -> None:
    health = judge(inner(100, acc_off=percent, **LABELS))
    assert health.learned is learned and word in health.verdict


def test_the_joint_models_fractions_are_judged_as_the_percents_of_mt4ssl() -> None:
    keys = {"ssl_chance": 0.01, "ssl_frequent": 0.2, "loss_off": 3.0, "loss_off_entropy": 4.0}
    keys["loss_off_chance"] = 4.6
    joint = judge(inner(100, ssl_accuracy=0.3, **keys))
    mt4ssl = judge(inner(100, acc_off=30.0, **LABELS))
    assert joint.sentence == mt4ssl.sentence and joint.learned is True
    assert (
        "Accuracy of labels 0.3 (chance 0.01, always the most frequent 0.2), cross-entropy of labels 3 "
        "(all alike 4.6, as frequent as they are 4)" in joint.sentence
    )


def test_labels_beside_grounding_are_judged_in_percent_and_by_phase() -> None:
    """As the joint criterion logs them since its branches are those of mt4ssl."""
    ssl = {"alpha": 0.0, "phase": 0.0, "loss_ssl": 3.0, **LABELS, **TEACHER, "loss_on": 3.0}
    both = {**ssl, "alpha": 0.5, "phase": 1.0, "loss_vgs": 2.0, "loss_vgs_chance": 6.93, "acc_off": 30.0}
    log = TrainingLog(Path("train.log"), (inner(10, acc_off=1.0, **ssl), inner(20, **both)))
    first, second = phase_healths(log, phase_starts(log))
    assert first.verdict == "labels: ended at chance; regression: learned"
    assert second.verdict == "learned" and "L_AV 2 (knowing nothing 6.93)" in second.sentence
    assert value(second, "accuracy of labels") == pytest.approx(0.3)
    assert "criterion.unmasked_weight=1" in first.sentence


def test_of_two_label_sets_both_must_learn() -> None:
    sets = {f"{key}_{index}": number for key, number in LABELS.items() for index in (0, 1)}
    health = judge(inner(100, acc_off_0=60.0, acc_off_1=20.0, **sets))
    assert health.learned is False
    assert "labels of set 1: learned; labels of set 2: ended no better" in health.verdict


@pytest.mark.parametrize(
    ("changes", "learned", "word"),
    [
        ({"loss_on": 3.79}, True, "learned"),  # 0.95 · 4 = 3.8
        ({"loss_on": 3.81}, False, "no better than predicting the mean"),
        ({"loss_on": 1.0, "target_var": 0.009}, False, "targets collapsed"),
        ({"loss_on": 1.0, "prediction_var": 9e-5}, False, "predictions collapsed"),
        ({"loss_on": 1.0, "target_var": 0.01, "prediction_var": 1e-4}, True, "learned"),
    ],
)
def test_a_regression_must_beat_the_mean_without_collapse(
    changes: dict[str, float], learned: bool, word: str
) -> None:
    health = judge(inner(100, **{**TEACHER, **changes}))
    assert health.learned is learned and word in health.verdict


def test_labels_are_not_advised_where_there_are_some() -> None:
    alone = judge(inner(100, loss_on=4.0, **TEACHER))
    beside = judge(inner(100, loss_on=4.0, **TEACHER, acc_off=50.0, **LABELS))
    assert "task.labels" in alone.sentence and "task.labels" not in beside.sentence
    assert beside.learned is False and "labels: learned; regression: ended no better" in beside.verdict


@pytest.mark.parametrize(
    ("recall", "learned"),
    [
        (7.1, False),  # 5 + 2 · 100 · sqrt(0.05 · 0.95 / 400) = 5 + 2 · 1.0897 = 7.18
        (7.2, True),
    ],
)
def test_recall_must_be_two_standard_errors_above_chance(recall: float, learned: bool) -> None:
    recalls = {"s2i_r10": recall - 1, "i2s_r10": recall + 1, **RECALLS}  # their mean counts
    health = judge(inner(100, loss_vgs=6.5, **GROUNDING), valid(100, **recalls))
    assert health.learned is learned
    assert f"R@10 {recall:g} % (chance 5 %), L_AV 6.5 (knowing nothing 6.93)" in health.sentence


def test_without_a_late_validation_the_retrieval_loss_decides() -> None:
    early = valid(50, s2i_r10=5.0, i2s_r10=5.0, **RECALLS)  # not in the second half, which begins after 50
    assert judge(early, inner(100, loss_vgs=6.58, **GROUNDING)).learned is True  # 0.95 · 6.93 = 6.5835
    assert judge(early, inner(100, loss_vgs=6.59, **GROUNDING)).learned is False
    late = valid(51, s2i_r10=5.0, i2s_r10=5.0, **RECALLS)
    assert judge(late, inner(100, loss_vgs=0.1, **GROUNDING)).learned is False


def test_among_ten_images_recall_at_10_cannot_tell_and_the_loss_does() -> None:
    few = {"s2i_r10": 100.0, "i2s_r10": 100.0, "s2i_chance10": 100.0, "i2s_chance10": 100.0, "captions": 6.0}
    assert judge(inner(100, loss_vgs=1.0, **GROUNDING), valid(100, **few)).learned is True
    assert judge(inner(100, loss_vgs=6.9, **GROUNDING), valid(100, **few)).learned is False


def test_the_last_quarter_of_a_phase_counts() -> None:
    course = [(25, 0.0), (50, 0.0), (75, 0.0), (80, 0.3), (100, 0.5)]  # the quarter begins after update 75
    lines = [inner(at, ssl_accuracy=share, contrastive=1.0, gnorm=at, **CONTRASTIVE) for at, share in course]
    health = judge(*lines)
    assert value(health, "contrastive accuracy") == pytest.approx(0.4)
    assert value(health, "gradient norm") == pytest.approx(66.0)  # of the whole phase


def test_phases_are_judged_apart_by_what_each_trains() -> None:
    ssl = [inner(at, ssl_accuracy=0.02, contrastive=3.9, **CONTRASTIVE) for at in (10, 20)]
    # the first line of the second phase still holds the last updates of the first
    mixed = {"ssl_accuracy": 0.9, "contrastive": 0.1, "ssl_chance": 0.02}
    vgs = [inner(30, loss_vgs=6.0, **mixed, **GROUNDING), inner(40, loss_vgs=2.0, **mixed, **GROUNDING)]
    before = valid(20, s2i_r10=5.0, i2s_r10=5.0, **RECALLS)
    after = valid(40, s2i_r10=60.0, i2s_r10=80.0, **RECALLS)
    log = TrainingLog(Path("train.log"), (*ssl, before, *vgs, after))
    first, second = phase_healths(log, phase_starts(log))
    assert (first.name, first.first_update, first.last_update, first.learned) == ("W2V2", 0, 20, False)
    assert (second.name, second.first_update, second.last_update, second.learned) == ("VGS", 20, 40, True)
    assert "R@10 70 %" in second.sentence and "ontrastive" not in second.sentence


def test_both_branches_of_a_phase_must_learn() -> None:
    both = {**CONTRASTIVE, "alpha": 0.5, "loss_vgs": 2.0, "loss_vgs_chance": 6.93, "contrastive": 3.9}
    health = judge(inner(100, ssl_accuracy=0.02, **both))
    assert health.learned is False
    assert health.verdict == "contrastive: ended at chance; retrieval: learned"


def test_a_phase_that_the_run_did_not_reach_is_left_out_and_one_without_a_line_says_so() -> None:
    line = inner(50, ssl_accuracy=0.5, contrastive=1.0, **CONTRASTIVE)
    phases = [(0, "a"), (20, "b"), (50, "c")]
    first, second = judged(line, phases=phases)
    assert first.learned is None and "no training line" in first.verdict
    assert second.learned is True and (second.first_update, second.last_update) == (20, 50)


@pytest.mark.parametrize(
    "values",
    [
        {"ssl_accuracy": 0.7, "contrastive": 1.0, "code_perplexity": 70.0, "alpha": 0.0},
        {"acc_off": 40.0, "loss_off": 2.0},
        {"loss_on": 2.0, "target_var": 0.5, "prediction_var": 0.2},
        {"loss_vgs": 2.0, "alpha": 1.0},
    ],
)
def test_a_log_without_references_cannot_be_judged_and_says_why(values: dict[str, float]) -> None:
    health = judge(inner(100, **values), valid(100, s2i_r10=50.0, i2s_r10=50.0))
    assert health.learned is None and "older version" in health.verdict and not health.advice


def test_a_training_of_another_kind_cannot_be_judged() -> None:
    health = judge(inner(100, loss=3.0))
    assert health.learned is None and "none of the measures" in health.verdict


def test_a_long_wait_for_data_is_reported_and_does_not_change_the_judgement() -> None:
    health = judge(inner(100, ssl_accuracy=0.7, contrastive=1.0, data_wait=0.3, **CONTRASTIVE))
    assert health.learned is True
    assert "time without data 30 %" in health.sentence and "dataset.num_workers" in health.sentence


def test_a_resumed_log_and_its_epoch_lines_are_judged_like_any_other(tmp_path: Path) -> None:
    def line(updates: int, accuracy: float) -> str:
        values = {**CONTRASTIVE, "ssl_accuracy": accuracy, "contrastive": 1.0}
        strings = {key: str(number) for key, number in values.items()}
        return json.dumps({"epoch": 1, "update": 0.1, **strings, "num_updates": str(updates)})

    path = tmp_path / "train.log"
    # killed after 100 updates at chance, gone on with from 50
    path.write_text("\n".join([line(50, 0.02), line(100, 0.02), line(80, 0.5), line(100, 0.6)]))
    (health,) = phase_healths(read_training_log(path))
    assert health.learned is True and value(health, "contrastive accuracy") == pytest.approx(0.55)
    epoch = Record("train", 100, {"ssl_accuracy": 0.5, "contrastive": 1.0, **CONTRASTIVE})
    assert judge(epoch).learned is True


def test_a_judged_phase_is_written_as_json_without_nan(tmp_path: Path) -> None:
    health = judge(inner(100, ssl_accuracy=0.02, contrastive=3.9, gnorm=float("nan"), **CONTRASTIVE))
    found: dict[str, Any] = json.loads(json.dumps(health.to_json(), allow_nan=False))
    assert found["learned"] is False and found["sentence"] == health.sentence
    assert found["measures"][0] == {
        "name": "contrastive accuracy",
        "value": 0.02,
        "reference": 0.02,
        "reference_name": "chance",
        "learned": False,
        "unit": "",
    }
