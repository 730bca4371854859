"""What was measured on a run, found in its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import paper_runs
import pytest

from fairseq_mtssl.errors import ConfigError, TrainingLogError
from fairseq_mtssl.report.evaluations import by_variant, read_run


def test_a_run_is_read_with_its_checkpoints_in_order(tmp_path: Path) -> None:
    run = read_run(paper_runs.write_run(tmp_path / "r", "w2v2_vgs"), "(W2V2, VGS)", "1")
    assert [abx.updates for abx in run.abx] == list(paper_runs.POINTS)
    assert run.retrieval is not None and run.retrieval.recalls["i2s_r10"] == 40.0
    assert (run.retrieval.images, run.retrieval.captions, run.retrieval.chance["s2i_r1"]) == (200, 400, 0.5)
    assert run.final_abx is not None and run.final_abx.updates == 70
    assert run.final_abx.best("within") == ("1", 30.0) and run.final_abx.best("across") == ("1", 31.0)


def test_an_unnumbered_abx_is_that_of_the_end_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = paper_runs.write_run(tmp_path / "r", "vgs")
    (folder / "evaluation" / "abx_70" / "abx_70.json").unlink()
    (folder / "abx.json").write_text(json.dumps(paper_runs.abx(25.0)))
    (folder / "abx_mfcc.json").write_text("{}")
    run = read_run(folder, "VGS", "1")
    assert run.final_abx is not None and run.final_abx.updates == 70
    assert run.final_abx.best("within") == ("1", 25.0)


def test_a_run_without_measures_has_its_log(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text('{"epoch": 1, "update": 0.1, "num_updates": "5", "loss_vgs": "7"}')
    run = read_run(tmp_path, "VGS", "1")
    assert run.retrieval is None and run.abx == () and run.final_abx is None
    (tmp_path / "train.log").unlink()
    with pytest.raises(TrainingLogError, match="no .log file here"):
        read_run(tmp_path, "VGS", "1")


def test_a_layer_without_cells_has_no_error(tmp_path: Path) -> None:
    folder = paper_runs.write_run(tmp_path / "r", "vgs")
    content = {"scores": {"1": {"within": None, "across": 30.0}}, "tokens": 5}
    (folder / "evaluation" / "abx_70" / "abx_70.json").write_text(json.dumps(content))
    run = read_run(folder, "VGS", "1")
    assert run.final_abx is not None
    assert run.final_abx.best("within") is None and run.final_abx.best("across") == ("1", 30.0)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("retrieval/retrieval.json", "{", "cannot be read as JSON"),
        ("retrieval/retrieval.json", '{"images": 3}', "lacks 'speech_to_image'"),
        ("retrieval/retrieval.json", "[]", "wanted what mtssl evaluate-retrieval --json writes"),
        ("abx_10/abx_10.json", '{"scores": {}}', "lacks 'tokens'"),
        ("abx_10/abx_10.json", '{"scores": [], "tokens": 1}', "wanted what mtssl evaluate-abx"),
        ("more/abx_10.json", '{"scores": {}, "tokens": 1}', "both of update 10; keep one"),
        ("more/retrieval.json", "{}", "two retrieval.json"),
    ],
)
def test_files_of_another_kind_are_refused(name: str, text: str, word: str, tmp_path: Path) -> None:
    path = paper_runs.write_run(tmp_path / "r", "vgs") / "evaluation" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        read_run(tmp_path / "r", "VGS", "1")


def test_a_file_or_a_missing_folder_is_refused_as_a_run(tmp_path: Path) -> None:
    (tmp_path / "train.log").touch()
    for path, got in ((tmp_path / "train.log", "is a file"), (tmp_path / "none", "is not there")):
        with pytest.raises(ConfigError, match=f"{got}; wanted the folder of a run"):
            read_run(path, "VGS", "1")


def test_seeds_of_a_variant_are_together_and_none_is_twice(tmp_path: Path) -> None:
    runs = [
        read_run(paper_runs.write_run(tmp_path / f"{seed}", "vgs", seed), "VGS", str(seed)) for seed in (1, 2)
    ]
    assert [run.seed for run in by_variant(runs)["VGS"]] == ["1", "2"]
    with pytest.raises(ConfigError, match="are both VGS with seed 1"):
        by_variant([runs[0], runs[1], runs[0]])


def test_runs_of_a_variant_stand_in_the_order_of_their_seeds_however_they_are_given(tmp_path: Path) -> None:
    run = read_run(paper_runs.write_run(tmp_path / "r", "vgs"), "VGS", "1")
    given = [replace(run, seed=seed) for seed in ("run 2", "2", "10", "run 1", "1")]
    assert [each.seed for each in by_variant(given)["VGS"]] == ["1", "2", "10", "run 2", "run 1"]
