"""`mtssl report RUN … --paper DIR`: run folders to tables, figures and findings."""

from __future__ import annotations

import json
from pathlib import Path

import paper_runs
import pytest

from fairseq_mtssl.cli.main import main

pytest.importorskip("matplotlib")

WRITTEN = {
    *("table1.md", "table1.tex", "table2.md", "table2.tex", "findings.md", "paper.json"),
    *(f"{name}.{kind}" for name in ("fig2", "fig2_layers", "fig3") for kind in ("png", "svg")),
}


def report(*words: object) -> int:
    return main(["report", *map(str, words)])


def test_runs_become_tables_figures_and_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        paper_runs.write_run(tmp_path / "x=1" / "a", "vgs", 1, 30.0),
        paper_runs.write_run(tmp_path / "b", "w2v2_vgs", 1, 45.0),
        paper_runs.write_run(tmp_path / "c", "vgs", 2, 31.0),
        f"mine={paper_runs.write_run(tmp_path / 'd', 'vgs', 1)}",
    ]
    assert report(*runs, "--paper", tmp_path / "new" / "paper") == 0
    assert {path.name for path in (tmp_path / "new" / "paper").iterdir()} == WRITTEN
    printed = capsys.readouterr().out
    assert "SHOWN: SSL first, then VGS, retrieves better than VGS alone." in printed
    content = json.loads((tmp_path / "new" / "paper" / "paper.json").read_text())
    assert [row[:2] for row in content["tables"]["retrieval"]["rows"]] == [
        *(["VGS", "2"], ["(W2V2, VGS)", "1"], ["mine", "1"], ["chance", ""]),
    ]
    assert set(content["runs"]["VGS"]) == {"1", "2"} and len(content["findings"]) == 4
    assert content["runs"]["mine"]["1"]["abx"][-1]["updates"] == 70
    assert "| (W2V2, VGS) | 1 |" in (tmp_path / "new" / "paper" / "table2.md").read_text()
    assert "retrieves better" in (tmp_path / "new" / "paper" / "findings.md").read_text()


def test_missing_measures_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = paper_runs.write_run(tmp_path / "run", "vgs")
    (run / "evaluation" / "retrieval" / "retrieval.json").unlink()
    assert report(run, "--paper", tmp_path / "paper") == 0
    said = capsys.readouterr()
    assert f"{run}: no retrieval measured" in said.err
    assert "not measured: no R@10 of (W2V2, VGS) or VGS" in said.out


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (None, "which variant this is cannot be told"),
        ("task:\n  schedule: vgs\n  phases: [{alpha: 1}]\n", "which variant this is cannot be told"),
        ("model: {}\n", "which variant this is cannot be told"),
        ("task: [", "wanted what Hydra wrote there"),
    ],
)
def test_a_run_that_does_not_say_its_variant_needs_a_name(
    config: str | None, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = paper_runs.write_run(tmp_path / "run", "vgs")
    path = run / ".hydra" / "config.yaml"
    path.unlink() if config is None else path.write_text(config)
    assert report(run, "--paper", tmp_path / "paper") == 2
    assert word in capsys.readouterr().err
    if config != "task: [":
        assert report(f"named={run}", "--paper", tmp_path / "paper") == 0


def test_what_does_not_go_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = paper_runs.write_run(tmp_path / "run", "vgs")
    for words, said in (
        ((run, "--out", "c.png"), "do not go with --paper"),
        ((run, run), "are both VGS with seed 1"),
        ((run / "train.log",), "which variant"),
        ((f"a={run / 'train.log'}",), "is a file; wanted the folder of a run"),
    ):
        assert report(*words, "--paper", tmp_path / "paper") == 2
        assert said in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert report(run, "--paper", tmp_path / "file") == 2
    assert "its folder cannot be made" in capsys.readouterr().err
