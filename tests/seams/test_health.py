"""Trainings say whether their phases learned, and their log says the same when it is read back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from training import train, train_mt4ssl

from fairseq_mtssl.report.health import phase_healths
from fairseq_mtssl.report.training_log import read_training_log

SAID = re.compile(r"phase (\d) of (\d), (\w+): (.*)")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """(name, text) of each phase that was judged."""
    lines = [each for each in caplog.records if each.name == "fairseq_mtssl.tasks.health_watch"]
    matches = [SAID.fullmatch(line.getMessage()) for line in lines]
    assert [(match[1], match[2]) for match in matches if match] == [
        (str(number), str(len(lines))) for number in range(1, len(lines) + 1)
    ]
    return [(match[3], match[4]) for match in matches if match]


def options(out: Path) -> dict[str, Any]:
    log = str(out / "train.log")
    once = {"checkpoint__save_interval_updates": 0, "dataset__validate_interval": 1000}
    return {"common__log_format": "json", "common__log_file": log, **once}


def test_a_sequence_says_of_both_phases_what_its_log_says(corpus: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    # two batches an update
    train(corpus, tmp_path, optimization__update_freq=[2], **options(tmp_path))
    (first, ssl), (second, vgs) = said(caplog)
    assert (first, second) == ("w2v2", "vgs")
    assert re.search(r"Contrastive accuracy [\d.]+ \(chance 0\.\d+\), contrastive loss", ssl)
    assert re.search(r"code book entries in use [\d.]+ \(of 16\), gradient norm .*clipped updates", ssl)
    # four images a batch: 2 ln 4; ten candidates or fewer are all among the best ten
    assert re.search(r"R@10 100 % \(chance 100 %\), L_AV [\d.]+ \(knowing nothing", vgs)
    healths = phase_healths(read_training_log(tmp_path / "train.log"), [(0, first), (4, second)])
    # their numbers come rounded from the log, and its time without data is rounded, too
    for health, text in zip(healths, (ssl, vgs), strict=True):
        assert health.text.split(".")[0] == text.split(".")[0]
        assert re.sub(r"[\d.e+]+", "#", health.text) == re.sub(r"[\d.e+]+", "#", text)


def test_both_targets_of_mt4ssl_are_judged_at_the_end(
    corpus: Path, labels: Path, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO")
    # the labels are random: there is nothing to learn
    train_mt4ssl(corpus, tmp_path / "out", labels, **options(tmp_path))
    ((name, text),) = said(caplog)
    assert name == "mt4ssl" and "labels: ended at chance" in text
    assert re.search(r"Accuracy of labels [\d.]+ \(chance 0\.167, always the most frequent 0\.2\d*\)", text)
    assert re.search(r"regression loss [\d.]+ \(predicting the mean [\d.]+\)", text)


def test_the_joint_models_labels_and_teacher_are_judged(
    corpus: Path, labels: Path, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO")
    train(
        corpus,
        tmp_path / "out",
        "joint_simultaneous_small",
        model__ssl="mt4ssl",
        task__labels=[str(labels)],
        task__lengths=["rest"],
        task__speed_perturb=0.0,
        dataset__disable_validation=True,
        optimization__max_update=2,
        **options(tmp_path),
    )
    ((name, text),) = said(caplog)
    assert name == "vgsplus"
    for measure in ("labels: ", "regression: ", "retrieval: ", "variance of the targets", "L_AV"):
        assert measure in text
