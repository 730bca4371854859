"""`mtssl report RUN --html`: what is refused, and why there is no gallery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pages
import pytest
from run_folders import write_checkpoint

from fairseq_mtssl.cli.main import main

pytest.importorskip("matplotlib")


def write_run(folder: Path, **cfg: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"epoch": 1, "update": n / 100, "loss": "8.1", "num_updates": str(n)} for n in (10, 20)]
    valid = {"epoch": 1, "valid_loss": "7.5", "valid_uer": "33", "valid_num_updates": "20"}
    (folder / "train.log").write_text("\n".join(map(json.dumps, [*lines, valid])))
    write_checkpoint(folder / "checkpoint_best.pt", **cfg)
    return folder


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace("\n", " ")


def test_a_run_without_retrieval_has_the_rest_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "my <run>", task={"_name": "speech_ctc", "note": "</pre><script>x"})
    assert main(["report", str(run), "--html"]) == 0
    out = run / "report.html"
    assert f"wrote {out}" in capsys.readouterr().out
    page = pages.PageParts(out.read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    assert not page.errors and page.texts[page.texts.index("Run my <run>")]
    assert "There is none on this page, and no gallery. The task speech_ctc trains no retrieval." in text
    assert "Nothing was measured by layer" in text and "Not recorded" in text
    assert "</pre><script>x" in text and "_name: speech_ctc" in text
    assert "torch" in page.texts and "fairseq-mtssl" in page.texts and "33" in page.texts
    assert len(page.all("svg")) == 1 and all(address.startswith("#") for address in page.addresses)


def test_the_page_says_whether_each_phase_learned(tmp_path: Path) -> None:
    run = write_run(tmp_path, task={"_name": "speech_ctc"})
    shared = {"epoch": 1, "update": 0.1, "ssl_chance": "0.02"}
    shared |= {"contrastive": "1.5", "contrastive_chance": "3.9"}
    lines = [
        {**shared, "ssl_accuracy": "0.02", "alpha": "0", "phase": "0", "num_updates": "10"},
        {**shared, "ssl_accuracy": "0.4", "loss": "2", "alpha": "0", "phase": "1", "num_updates": "20"},
    ]
    (run / "train.log").write_text("\n".join(map(json.dumps, lines)))
    assert main(["report", str(run), "--html"]) == 0
    page = pages.PageParts((run / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    assert "Did each phase learn?" in text and not page.errors
    assert "W2V2, updates 0 to 10: ended at chance. Contrastive accuracy 0.02 (chance 0.02)" in text
    assert "W2V2, updates 10 to 20: learned. Contrastive accuracy 0.4 (chance 0.02)" in text
    assert "What usually helps: filterbanks" in text


def test_a_run_that_gave_retrieval_no_weight_has_none(tmp_path: Path) -> None:
    phases = [{"name": "ssl", "alpha": 0, "length": "rest"}]
    run = write_run(tmp_path, task={"_name": "joint_ssl_vgs", "phases": phases})
    assert main(["report", str(run), "--html", str(tmp_path / "p.html")]) == 0
    assert "is 0 in all of its schedule" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_retrieval_can_be_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, task={"_name": "joint_ssl_vgs", "data": "gone"})
    assert main(["report", str(run), "--html", "--captions", "0"]) == 0
    assert "It was not asked for." in (run / "report.html").read_text(encoding="utf-8")


def test_measures_by_layer_are_found_in_the_run_and_given_ones_added_once(tmp_path: Path) -> None:
    scores = {"1": {"within": 20.0, "across": 21.0}, "2": {"within": 10.0, "across": 11.0}}
    measured = {"scores": scores, "best": {"within": "2", "across": "2"}, "cells": {}}
    run = write_run(tmp_path / "run")
    for path in (run / "abx.json", tmp_path / "other.json"):
        path.write_text(json.dumps(measured))
    given = ["--layers", str(tmp_path / "other.json"), "--layers", str(run / "abx.json")]
    assert main(["report", f"mine={run}", "--html", *given]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert [text.count(f"<h2>ABX error ({name}.json)</h2>") for name in ("abx", "other")] == [1, 1]
    assert "<h1>Run mine</h1>" in text and not pages.PageParts(text).errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--captions", "3", "--data", "d"], "--data, --captions: only with --html"),
        (["--html", "--out", "a.png"], "--out is of the picture"),
        (["--html", "--paper", "d"], "give one at a time"),
        (["second", "--html"], "2 runs, wanted one RUN"),
        (["--html", "--checkpoint", "gone.pt"], "gone.pt: no such file"),
        (["--html", "--layers", "gone.json"], "gone.json: is absent"),
        (["--html", "--phase", "x"], "wanted UPDATE:NAME"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    assert main(["report", str(run), *options]) == 2
    assert words in message(capsys) and not (run / "report.html").exists()


def test_a_folder_without_a_checkpoint_or_a_log_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    (run / "checkpoint_best.pt").unlink()
    assert main(["report", str(run), "--html"]) == 2
    assert "holds neither checkpoint_best.pt nor checkpoint_last.pt" in message(capsys)
    (run / "train.log").unlink()
    assert main(["report", str(run), "--html"]) == 2
    assert "no .log file here" in message(capsys)


def test_a_report_whose_pairs_are_gone_asks_for_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"_name": "joint_ssl_vgs", "data": "gone", "phases": [{"alpha": 1, "length": "rest"}]}
    assert main(["report", str(write_run(tmp_path, task=task)), "--html"]) == 2
    said = message(capsys)
    assert "gone: holds no test.pairs or valid.pairs" in said and "--data" in said and "--captions 0" in said
