"""The retrieval section of a run's page."""

from __future__ import annotations

from fairseq_mtssl.report.run_sections import scores_section

ROW = {"r1": 30.0, "r5": 30.0, "r10": 30.0, "median_rank": 9.0}
CHANCE = {"r1": 10.0, "r5": 41.0, "r10": 65.0, "median_rank": 9.3}


def scores(relevance: str, **precisions: float) -> dict:
    ways = ("speech_to_image", "image_to_speech")
    about = {"split": "test", "images": 120, "captions": 10, "relevance": relevance}
    rows = dict.fromkeys(ways, {**ROW, **precisions})
    return {**about, **rows, "chance": dict.fromkeys(ways, {**CHANCE, **dict.fromkeys(precisions, 10.0)})}


def test_precision_stands_beside_recall_by_label() -> None:
    section = scores_section(scores("label", p1=30.0, p5=30.0, p10=31.0))
    assert section.table is not None
    assert section.table.header == ["", "R@1 %", "R@5 %", "R@10 %", "P@5 %", "P@10 %", "median rank"]
    assert section.table.rows[0][1:] == ["30.0", "30.0", "30.0", "30.0", "31.0", "9.0"]
    assert section.table.rows[1][1:] == ["10.0", "41.0", "65.0", "10.0", "10.0", "9.3"]
    assert "P@k" in section.text


def test_scores_by_image_have_no_precision_column() -> None:
    section = scores_section(scores("image"))
    assert section.table is not None
    assert section.table.header == ["", "R@1 %", "R@5 %", "R@10 %", "median rank"]
    assert "P@k" not in section.text
