"""The schedules example from end to end at its smallest: two trainings, measures, tables and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_corpora
import tiny_recipes

from examples.schedules import run

pytest.importorskip("matplotlib")

SAVED_AT = (1, 2, 3, 5, 7)


def make_data(folder: Path) -> Path:
    """Sixteen tones to train on, six to test, cut into items of two phones and two speakers."""
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        tiny_corpora.make_pairs(folder, split, count)
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for number in range(6):
        phone, speaker = "low" if number < 3 else "high", f"s{number % 2}"
        lines += [
            f"test_{number} {onset} {onset + 0.1:.1f} {phone} q n {speaker}" for onset in (0.0, 0.1, 0.2)
        ]
    (folder / "test.item").write_text("\n".join(lines) + "\n")
    return folder


def test_two_variants_end_in_tables_figures_and_findings(commands: list[str], tmp_path: Path) -> None:
    data, out = make_data(tmp_path / "data"), tmp_path / "out"
    words = ["--data", data, "--out", out, "--updates", 7, "--only", "w2v2,vgs_w2v2", "--at-once", 2]
    words += ["--abx", "all", "--record", tmp_path / "kept"]
    run.main([*map(str, words), *tiny_recipes.tiny_words()])

    runs = {name: out / f"{name}-seed1" for name in ("w2v2", "vgs_w2v2")}
    for folder in runs.values():
        kept = sorted(int(path.stem.rpartition("_")[2]) for path in folder.glob("checkpoint_?_?.pt"))
        # four updates an epoch; fairseq keeps none by update where an epoch ends
        assert kept == [1, 2, 3, 5, 6, 7]
        measured = sorted(int(path.stem.rpartition("_")[2]) for path in folder.rglob("abx_*.json"))
        assert tuple(measured) == SAVED_AT
    content = json.loads((out / "results.json").read_text())
    assert [row[:2] for row in content["tables"]["abx"]["rows"]] == [["W2V2", "1"], ["(VGS, W2V2)", "1"]]
    assert set(content["runs"]["W2V2"]["1"]["abx"][0]["errors"]["within"]) == {"1", "2", "3"}
    assert len(content["findings"]) == 4 and content["length"] == "7 updates"
    page = (out / "index.html").read_text()
    assert page.count("data:image/png") == 3 and "Table II" in page
    # 2/7 of VGS, then the optimizer anew and 5/7 of W2V2
    log = (runs["vgs_w2v2"] / "hydra_train.log").read_text()
    assert "vgs: updates 0 to 2, alpha 1" in log and "w2v2: updates 2 to 7, alpha 0" in log

    once = len(commands)
    run.main([*map(str, words), *tiny_recipes.tiny_words()])
    assert len(commands) == once  # nothing is done twice

    elsewhere = [*words[:3], tmp_path / "elsewhere" / "out", *words[4:]]
    run.main([*map(str, elsewhere), *tiny_recipes.tiny_words()])
    assert [name for name in commands[once:] if "seed" in name] == []  # recorded runs are not trained again
    once = len(commands)

    again = tmp_path / "again"
    run.main(["--from-results", str(tmp_path / "kept"), "--out", str(again)])
    assert commands[once:] == ["paper"]  # nothing is trained
    rebuilt = json.loads((again / "results.json").read_text())
    assert rebuilt["tables"] == content["tables"] and rebuilt["findings"] == content["findings"]
    for name in ("findings.json", "tables.md"):
        assert (again / name).read_text() == (out / name).read_text()
    assert (again / "paper" / "fig3.png").is_file() and (again / "index.html").is_file()
    record = tmp_path / "kept" / "vgs_w2v2-seed1.json"
    assert record.stat().st_size < 8000 and str(tmp_path) not in record.read_text()
    kept = json.loads(record.read_text())
    assert (kept["title"], kept["seed"], kept["updates"]) == ("(VGS, W2V2)", 1, 7)
    assert [phase["updates"] for phase in kept["phases"]] == [2, 7] and set(kept["abx"]) == set("12357")
