"""The example that trains every self-supervised branch on speech alone: its commands and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.branches import run
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.ssl.base import BRANCHES


def made(name: str, seed: int, **layers: tuple[float, float]) -> dict:
    """A record. layers: ABX errors within and across speakers."""
    abx = {layer.removeprefix("layer"): {"within": a, "across": b} for layer, (a, b) in layers.items()}
    return {"name": name, "seed": seed, "updates": 1, "command": None, "abx": abx, "tokens": 9, "health": []}


def test_every_registered_branch_of_ours_is_trained() -> None:
    assert set(run.BRANCHES) == {name for name in BRANCHES.names() if "." not in name}


def test_only_branches_that_predict_labels_are_given_labels(tmp_path: Path) -> None:
    args = run.parse(["--out", str(tmp_path), "--updates", "7", "model.dropout=0.2"])
    labels = run.stages.labels_stage("mfcc-cmn", "mfcc-cmn", 5, tmp_path / "data", tmp_path)
    lines = {name: run.training(args, name, 1, labels).line for name in run.BRANCHES}
    assert {name for name, line in lines.items() if str(labels.folder) in line} == set(run.LABELLED)
    for name, line in lines.items():
        assert f"model.ssl={name}" in line and "optimization.max_update=7" in line
        assert "model.dropout=0.2" in line


def test_the_best_layer_across_speakers_is_bold_and_features_stand_in_the_first_column() -> None:
    records = [
        made("hubert", 2, layer1=(2.0, 9.0), layer2=(3.0, 8.0)),
        made("hubert", 1, layer1=(2.0, 7.0), layer2=(1.0, 8.0)),
        made(run.LOG_MEL, 0, **{"log-mel": (1.0, 5.0)}),
    ]
    assert run.markdown(records).splitlines() == [
        "| model | seed | layer 1 | layer 2 |",
        "| --- | --- | --- | --- |",
        "| log-mel filterbanks |  | **1.0 / 5.0** |  |",
        "| HuBERT | 1 | **2.0 / 7.0** | 1.0 / 8.0 |",
        "| HuBERT | 2 | 2.0 / 9.0 | **3.0 / 8.0** |",
    ]


def test_the_table_is_made_of_recorded_results_without_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "hubert-seed1.json").write_text(json.dumps(made("hubert", 1, layer1=(2.0, 9.0))))
    run.main(["--from-results", str(tmp_path / "kept"), "--out", str(tmp_path / "out")])
    assert "| HuBERT | 1 | **2.0 / 9.0** |" in (tmp_path / "out" / "table.md").read_text()
    assert "HuBERT" in capsys.readouterr().out


def test_seeds_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        run.parse(["--seeds", "1,a", "--out", str(tmp_path)])
