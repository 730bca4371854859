"""`mtssl report`: runs to a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairseq_mtssl.cli import options, report
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.training_log import read_runs


def write_log(folder: Path, broken: bool = False) -> Path:
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"epoch": 1, "update": n / 100, "loss_vgs": "8.1", "num_updates": str(n), "phase": "0"})
        for n in (10, 20)
    ]
    (folder / "train.log").write_text("\n".join(lines + ['{"epoch": 1, "upd'] * broken))
    return folder


def names_of(*words: str) -> list[str]:
    return list(read_runs([options.name_and_path(word) for word in words]))


def test_curves_land_beside_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = write_log(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {run / 'curves.png'}" in capsys.readouterr().out


def test_broken_lines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = write_log(tmp_path / "run", broken=True)
    assert main(["report", str(run), "--out", str(tmp_path / "c.png"), "--phase", "15:VGS"]) == 0
    assert "left out 1 broken lines" in capsys.readouterr().err


def test_runs_are_named_by_the_user_or_after_their_folder(tmp_path: Path) -> None:
    first, second = write_log(tmp_path / "x" / "run"), write_log(tmp_path / "y" / "run")
    assert names_of(str(first), str(second)) == ["run", str(second)]
    assert names_of(f"VGS+={first}", str(second)) == ["VGS+", "run"]
    swept = write_log(tmp_path / "lr=0.1")
    assert names_of(str(swept), f"again={swept}") == ["lr=0.1", "again"]
    with pytest.raises(ConfigError, match="given twice"):
        names_of(f"a={first}", f"a={second}", f"a={second}")


def test_phases_are_read_and_checked() -> None:
    assert report.parse_phase("400:VGS: late") == (400, "VGS: late")
    for text in ("VGS", "400", "400:", "-1:VGS"):
        with pytest.raises(ConfigError, match="wanted UPDATE:NAME"):
            report.parse_phase(text)


def test_a_run_without_a_log_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no .log file here" in capsys.readouterr().err
