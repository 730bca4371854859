"""fairseq's JSON log read back: the three forms of a line, repeats, resumed and killed runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fairseq_mtssl.errors import TrainingLogError
from fairseq_mtssl.report.training_log import phase_starts, read_training_log


def inner(updates: int, **values: str) -> str:
    return json.dumps({"epoch": 1, "update": updates / 100, **values, "num_updates": str(updates)})


def tagged(tag: str, updates: int, **values: str) -> str:
    prefixed = {f"{tag}_{key}": value for key, value in values.items()}
    return json.dumps({"epoch": 1, **prefixed, f"{tag}_num_updates": str(updates)})


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "form",
    [
        "{json}",
        "[2026-01-01 10:00:00,123][{tag}][INFO] - {json}",
        "2026-01-01 10:00:00 | INFO | {tag} | {json}",
    ],
)
def test_every_place_fairseq_writes_a_record_to_is_read(tmp_path: Path, form: str) -> None:
    def line(tag: str, text: str) -> str:
        return form.replace("{tag}", tag).replace("{json}", text)

    path = write(
        tmp_path / "train.log",
        "[2026-01-01 10:00:00,000][fairseq_cli.train][INFO] - {'task': {'data': 'x'}, 'epoch': 3}",
        line("train_inner", inner(10, loss_vgs="8.1", lr="0.0001")),
        line("valid", tagged("valid", 10, loss="7", s2i_r10="12.5")),
        line("train", tagged("train", 10, loss_vgs="8.2")),
        "Traceback (most recent call last):",
    )
    log = read_training_log(path)
    assert [(record.kind, record.updates) for record in log.records] == [
        ("train_inner", 10),
        ("valid", 10),
        ("train", 10),
    ]
    assert log.series("loss_vgs") == ([10], [8.1])
    assert log.series("s2i_r10", "valid") == ([10], [12.5])
    assert log.series("loss_vgs", "train") == ([10], [8.2])
    assert log.broken == 0


def test_numbers_come_as_strings_or_numbers_and_the_rest_is_left_out(tmp_path: Path) -> None:
    line = json.dumps(
        {"epoch": 1, "num_updates": "1e+06", "loss_vgs": "nan", "lr": 0.5, "note": "warm", "t": [1]}
    )
    (record,) = read_training_log(write(tmp_path / "a.log", line)).records
    assert record.updates == 1_000_000
    assert math.isnan(record.values["loss_vgs"])
    assert record.values["lr"] == 0.5
    assert not {"note", "t"} & set(record.values)


def test_a_record_written_by_several_handlers_is_taken_once(tmp_path: Path) -> None:
    lines = [inner(10, loss="3"), *[inner(20, loss="2")] * 2, *[tagged("valid", 20, loss="1")] * 3]
    log = read_training_log(write(tmp_path / "a.log", *lines))
    assert [(record.kind, record.updates) for record in log.records] == [
        ("train_inner", 10),
        ("train_inner", 20),
        ("valid", 20),
    ]


def test_a_resumed_run_replaces_what_it_does_again(tmp_path: Path) -> None:
    before = [inner(n, loss=f"{n}") for n in (10, 20, 30, 40)]
    after = [inner(n, loss=f"{n}.5") for n in (30, 40, 50)]
    log = read_training_log(write(tmp_path / "a.log", *before, *after))
    assert log.series("loss") == ([10, 20, 30, 40, 50], [10, 20, 30.5, 40.5, 50.5])


def test_a_line_cut_short_by_a_kill_is_counted(tmp_path: Path) -> None:
    log = read_training_log(write(tmp_path / "a.log", inner(10, loss="1"), '{"epoch": 1, "update": 0.2, "lo'))
    assert log.broken == 1
    assert len(log.records) == 1


def test_a_switched_off_loss_is_nan_and_an_unknown_one_empty(tmp_path: Path) -> None:
    log = read_training_log(write(tmp_path / "a.log", inner(10, loss_ssl="5"), inner(20, loss_vgs="8")))
    updates, values = log.series("loss_vgs")
    assert updates == [10, 20]
    assert math.isnan(values[0]) and values[1] == 8
    assert log.series("loss_xyz") == ([], [])


def test_epoch_means_serve_where_the_run_was_too_short_for_inner_lines(tmp_path: Path) -> None:
    log = read_training_log(write(tmp_path / "a.log", tagged("train", 7, loss_vgs="8")))
    assert log.training_series("loss_vgs") == ([7], [8.0])


def test_other_validation_subsets_keep_their_name(tmp_path: Path) -> None:
    lines = [tagged("valid", 10, loss="1"), tagged("test", 10, loss="2")]
    log = read_training_log(write(tmp_path / "a.log", *lines))
    assert log.series("loss", "valid") == ([10], [1.0])
    assert log.series("loss", "test") == ([10], [2.0])


def test_the_log_is_found_in_a_run_folder(tmp_path: Path) -> None:
    write(tmp_path / "aa.log", "nothing of use")
    (tmp_path / "checkpoints").mkdir()
    path = write(tmp_path / "checkpoints" / "hydra_train.log", inner(10, loss="1"))
    assert read_training_log(tmp_path).path == path
    path = write(tmp_path / "train.log", inner(10, loss="1"))
    assert read_training_log(tmp_path).path == path


def test_what_holds_no_record_is_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(TrainingLogError, match="no .log file here"):
        read_training_log(tmp_path)
    with pytest.raises(TrainingLogError, match="cannot be read"):
        read_training_log(tmp_path / "none.log")
    empty = write(tmp_path / "train.log", "epoch 001: 10 / 100 loss=3")
    with pytest.raises(TrainingLogError, match="log_format=json"):
        read_training_log(empty)


def test_phases_are_told_by_number_and_named_by_alpha(tmp_path: Path) -> None:
    course = [(10, 0, 0), (20, 0, 0), (30, 1, 1), (40, 1, 1), (50, 2, 0.5)]
    lines = [inner(n, loss="1", phase=str(phase), alpha=str(alpha)) for n, phase, alpha in course]
    log = read_training_log(write(tmp_path / "a.log", *lines))
    assert phase_starts(log) == [(0, "W2V2"), (20, "VGS"), (40, "VGS+ (α = 0.5)")]


def test_phases_without_alpha_have_numbers_and_without_phase_none(tmp_path: Path) -> None:
    log = read_training_log(write(tmp_path / "a.log", inner(10, phase="0"), inner(20, phase="1")))
    assert phase_starts(log) == [(0, "phase 1"), (10, "phase 2")]
    assert phase_starts(read_training_log(write(tmp_path / "b.log", inner(10, loss="1")))) == []
