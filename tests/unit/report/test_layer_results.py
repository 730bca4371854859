"""Measures by layer: found by what they hold, put in series, drawn and tabled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pages
import pytest

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.layer_results import find_layer_results, in_series, read_layer_result
from fairseq_mtssl.report.run_sections import layer_sections


def abx(lowest: float = 10.0, layers: int = 3) -> dict[str, Any]:
    scores = {str(i): {"within": lowest + i, "across": lowest + 5 - i} for i in range(1, layers + 1)}
    how = {"split": "test", "distance": "angular", "slicing": "exact", "context": "within"}
    return {**how, "scores": scores, "best": {"within": "1", "across": str(layers)}, "cells": {"within": 3}}


def probe() -> dict[str, Any]:
    scores = {str(i): {"valid": {"accuracy": 40.0 + i, "macro_f1": 30.0 + i}} for i in (1, 2)}
    return {"phones": 40, "chance": {"valid": 9.0}, "scores": scores, "best": {"layer": "2"}}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_measures_by_layer_are_found_by_the_content_of_their_files(tmp_path: Path) -> None:
    write(tmp_path / "evaluation" / "a.json", abx())
    write(tmp_path / "b.json", probe())
    write(tmp_path / "retrieval.json", {"images": 3, "scores": {"r1": 4.0}})
    write(tmp_path / "list.json", [1, 2])
    write(tmp_path / "cut.json", '{"scores": {"1"')
    found = find_layer_results(tmp_path)
    assert [(result.path.name, result.is_abx) for result in found] == [("b.json", False), ("a.json", True)]


@pytest.mark.parametrize(
    "change",
    [{"scores": {}}, {"scores": [1]}, {"chance": {"test": 1.0}}, {"best": {}}, {"best": {"layer": "9"}}],
)
def test_a_file_that_lacks_a_part_holds_no_measures_by_layer(change: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {**probe(), **change})
    assert find_layer_results(tmp_path) == []
    with pytest.raises(ConfigError, match=r"x\.json: holds no measures by layer; give what evaluate-abx"):
        read_layer_result(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.json: is absent"):
        read_layer_result(tmp_path / "no.json")


def test_checkpoints_of_one_run_are_one_series_in_the_order_of_updates(tmp_path: Path) -> None:
    for name in ("abx_100", "abx_20", "abx", "other"):
        write(tmp_path / f"{name}.json", abx())
    series = in_series(find_layer_results(tmp_path))
    names = [[result.path.stem for result in each] for each in series]
    assert names == [["abx_20", "abx_100", "abx"], ["other"]]


def test_sections_have_the_curve_the_numbers_and_the_best(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path / "abx_10.json", abx(30.0))
    write(tmp_path / "abx_20.json", abx(20.0))
    write(tmp_path / "p.json", probe())
    first, second = layer_sections(find_layer_results(tmp_path))
    parts = pages.PageParts(first.markup + second.markup)
    assert not parts.errors and len(parts.all("svg")) == 2 and len(set(parts.ids)) == len(parts.ids)
    assert first.title == "ABX error (abx_20.json)" and "within 21.00 % (layer 1)" in first.text
    assert "21.00" in parts.texts and "abx_10.json" in parts.texts
    assert second.title == "Phone probe (p.json)" and "Best: layer 2: valid 42.00 %" in second.text


def test_one_row_makes_a_table_without_a_curve(tmp_path: Path) -> None:
    measured = abx(layers=1)
    measured["scores"]["1"]["within"] = None
    measured["best"]["within"] = None
    write(tmp_path / "mfcc.json", measured)
    (section,) = layer_sections(find_layer_results(tmp_path))
    assert "<svg" not in section.markup and "<table" in section.markup and "within" not in section.text[-40:]


def test_a_measure_that_no_speaker_shares_is_left_out_of_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    measured = abx()
    for row in measured["scores"].values():
        row["within"] = None
    measured["best"]["within"] = None
    write(tmp_path / "a.json", measured)
    (section,) = layer_sections(find_layer_results(tmp_path))
    assert "<svg" in section.markup


def test_a_run_without_measures_by_layer_says_so() -> None:
    (section,) = layer_sections([])
    assert "Nothing was measured by layer" in section.text
