"""Recorded results: what is kept of a run, and that a run's folder can be made of it again."""

from __future__ import annotations

import json
from pathlib import Path

import paper_runs
import pytest

from examples import records
from examples.pipeline import Pipeline, Stage
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.evaluations import read_run


def recorded(tmp_path: Path, seed: int = 3, redone: bool = True) -> records.Record:
    folder = paper_runs.write_run(tmp_path / "w2v2_vgs-seed3", "w2v2_vgs", seed)
    run = Stage(folder.name, ["fairseq-hydra-train", f"checkpoint.save_dir={folder}"], folder, [])
    pipeline = Pipeline(tmp_path)
    pipeline.seconds[run.name] = 12.5
    pipeline.redone |= {run.name} if redone else set()
    return records.make_record(run, "(W2V2, VGS)", "w2v2_vgs", seed, pipeline, length="70 updates")


def test_a_record_says_how_the_run_was_made_and_what_it_gave(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    assert (record["seed"], record["updates"], record["seconds"]) == (3, 70, 12.5)
    assert record["command"] == f"fairseq-hydra-train checkpoint.save_dir={tmp_path.name}/w2v2_vgs-seed3"
    assert record["retrieval"]["speech_to_image"]["r10"] == 40.0
    assert list(record["abx"]) == ["10", "20", "30", "50", "70"]
    # made-up losses: 7 - update/20 + seed/10 and 6 - update/40 + seed/10; the log says nothing of phases
    assert record["phases"] == [{"updates": 70, "alpha": 1.0, "loss_vgs": pytest.approx(3.8)}]
    assert record["curves"]["loss_ssl"][0] == pytest.approx(6 - 5 / 40 + 0.3)
    assert record["curves"]["loss_ssl"][-1] is None


def test_a_run_restored_from_its_record_measures_the_same(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    path = records.write_record(record, tmp_path / "kept")
    (again,) = records.read_records([tmp_path / "kept"])
    assert again == json.loads(json.dumps(record)) and path.stat().st_size < 6000
    records.restore_run(again, tmp_path / "restored")
    first = read_run(tmp_path / "w2v2_vgs-seed3", "(W2V2, VGS)", "3")
    second = read_run(tmp_path / "restored", "(W2V2, VGS)", "3")
    assert (second.retrieval, second.abx) == (first.retrieval, first.abx)
    # repr: where a branch was off there is NaN, which equals nothing
    for key in ("loss_vgs", "loss_ssl"):
        assert repr(second.log.training_series(key)) == repr(first.log.training_series(key))


def test_a_record_is_kept_in_the_output_folder_and_where_record_names_one(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    records.keep_record(record, tmp_path / "alone", None)
    records.keep_record(record, tmp_path / "out", tmp_path / "kept")
    for folder in (tmp_path / "alone" / "records", tmp_path / "out" / "records", tmp_path / "kept"):
        (again,) = records.read_records([folder])
        assert again == json.loads(json.dumps(record))


def test_a_run_counts_as_recorded_only_if_its_command_is_the_same(tmp_path: Path) -> None:
    record = json.loads(json.dumps(recorded(tmp_path)))
    records.write_record(record, tmp_path / "kept")
    same, other = {record["name"]: record["command"]}, {record["name"]: record["command"] + " task.x=1"}
    assert records.already_recorded(same, tmp_path / "kept") == {record["name"]: record}
    assert records.already_recorded(other, tmp_path / "kept") == {}
    assert records.already_recorded(same, tmp_path / "nowhere") == {}


def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    lines = [json.dumps({"epoch": 1, "update": 0.1, "num_updates": n, "loss_vgs": n}) for n in range(1, 202)]
    (tmp_path / "train.log").write_text("\n".join(lines))
    curves = records.thin_curves(records.read_training_log(tmp_path))
    # 201 lines, at most 60: every fourth, counted from the last
    assert curves["num_updates"] == curves["loss_vgs"] == list(range(1, 202, 4))


def test_a_record_of_a_run_done_before_keeps_the_commit_that_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    record = recorded(tmp_path)
    records.write_record({**record, "commit": "abc"}, folder)
    path = records.write_record({**record, "commit": None, "seconds": 1.0}, folder)
    assert json.loads(path.read_text())["commit"] == "abc"
    records.write_record({**record, "commit": None, "command": "another"}, folder)
    assert json.loads(path.read_text())["commit"] is None
    (tmp_path / "second").mkdir()
    assert recorded(tmp_path / "second", redone=False)["commit"] is None


@pytest.mark.parametrize(
    ("line", "portable"),
    [
        (
            "x task.data=/a/b/data checkpoint.save_dir=/o/runs/vgs",
            "x task.data=data checkpoint.save_dir=runs/vgs",
        ),
        ("x 'task.labels=[/a/b/km,/c]' task.data=runs/d", "x 'task.labels=[km,/c]' task.data=runs/d"),
        ("x 'task.data=/a/b c/d'", "x 'task.data=b c/d'"),
    ],
)
def test_commands_name_no_folder_of_the_machine(line: str, portable: str) -> None:
    assert records.portable(line, Path("/o/runs")) == portable


def test_every_fault_of_recorded_results_is_told_at_once(tmp_path: Path) -> None:
    for name in ("a", "b", "empty"):
        (tmp_path / name).mkdir()
    record = recorded(tmp_path)
    for name in ("a", "b"):
        records.write_record(record, tmp_path / name)
    (tmp_path / "a" / "bad.json").write_text("{")
    (tmp_path / "b" / "less.json").write_text('{"name": "less", "title": "t", "seed": 1}')
    with pytest.raises(ConfigError) as caught:
        records.read_records([tmp_path / name for name in ("a", "b", "empty")])
    said = str(caught.value)
    for word in ("bad.json cannot be read", "lacks schedule, curves", "seed3 is there twice", "no record"):
        assert word in said
