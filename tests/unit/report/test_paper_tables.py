"""Tables I and II: cells by hand, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path

import paper_runs
import pytest

from fairseq_mtssl.report import paper_tables
from fairseq_mtssl.report.evaluations import MeasuredRun, by_variant, read_run
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.published import PUBLISHED, in_papers_order, kinds_of, variant_name


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[MeasuredRun]]:
    """(W2V2, VGS) with two seeds, VGS with one, and a run that the paper does not have."""
    found = []
    for variant, schedule, seed, r10, error in (
        ("mine", "vgs", 1, 20.0, 20.0),
        ("(W2V2, VGS)", "w2v2_vgs", 1, 40.0, 30.0),
        ("(W2V2, VGS)", "w2v2_vgs", 2, 44.0, 31.0),
        ("VGS", "vgs", 1, 36.0, 29.0),
    ):
        folder = paper_runs.write_run(tmp_path / f"{variant}{seed}", schedule, seed, r10, error)
        found.append(read_run(folder, variant, str(seed)))
    return by_variant(found)


def test_the_papers_nine_are_there_and_named_as_it_names_them() -> None:
    assert [variant_name(schedule) for schedule in sorted(paper_runs.NINE)] == [
        *("VGS", "(VGS, VGS+)", "(VGS, W2V2)", "VGS+", "(VGS+, VGS)", "(VGS+, W2V2)"),
        *("W2V2", "(W2V2, VGS)", "(W2V2, VGS+)"),
    ]
    assert {variant_name(schedule) for schedule in paper_runs.NINE} == set(PUBLISHED)
    assert kinds_of("(W2V2, VGS+)") == ("W2V2", "VGS+") and kinds_of("VGS") == ("VGS",)
    assert in_papers_order(["b", "VGS+", "a", "W2V2"]) == ["W2V2", "VGS+", "b", "a"]


def test_recalls_stand_beside_the_papers(runs) -> None:
    table = paper_tables.retrieval_table(runs)
    assert table.header[:4] == ["run", "seeds", "s→i R@1", "paper"]
    assert [row[0] for row in table.rows] == ["VGS", "(W2V2, VGS)", "mine", "chance"]
    # 40 and 44: mean 42, standard deviation sqrt(8) = 2.8; R@1 a quarter of it
    assert table.rows[1] == [
        *("(W2V2, VGS)", "2", "10.5 ± 0.7", "32.3", "42.0 ± 2.8", "74.9"),
        *("10.5 ± 0.7", "44.8", "42.0 ± 2.8", "84.8"),
    ]
    assert table.rows[2][1:6] == ["1", "5.0", "–", "20.0", "–"]
    assert table.rows[3][1:6] == ["", "0.5", "", "5.0", ""]
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_errors_have_the_layer_whose_mean_is_lowest(runs) -> None:
    table = paper_tables.abx_table(runs)
    assert table.header == ["run", "seeds", "within (layer)", "paper", "across (layer)", "paper"]
    assert table.rows[1] == [
        "(W2V2, VGS)",
        "2",
        "30.50 ± 0.71 (1)",
        "6.74 (2)",
        "31.50 ± 0.71 (1)",
        "8.75 (2)",
    ]


def test_the_layer_is_chosen_over_seeds_not_by_the_best_of_one() -> None:
    def run(errors: dict[str, float]) -> MeasuredRun:
        from fairseq_mtssl.report.evaluations import Abx
        from fairseq_mtssl.report.training_log import TrainingLog

        abx = Abx(1, 10, {"within": errors, "across": {}})
        return MeasuredRun("VGS", "1", Path(), TrainingLog(Path(), ()), None, (abx,))

    seeds = [run({"1": 10.0, "2": 12.0, "3": 1.0}), run({"1": 20.0, "2": 12.0})]
    assert paper_tables.best_layer(seeds, "within") == "12.00 ± 0.00 (2)"  # 3 is not of both
    assert paper_tables.best_layer(seeds, "across") == "–"
    assert paper_tables.best_layer([], "within") == "–"


def test_nothing_measured_leaves_dashes(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text('{"epoch": 1, "update": 0.1, "num_updates": "5", "loss_vgs": "7"}')
    runs = {"VGS": [read_run(tmp_path, "VGS", "1")]}
    assert paper_tables.retrieval_table(runs).rows == [
        ["VGS", "0", "–", "28.4", "–", "69.4", "–", "40.1", "–", "81.5"]
    ]
    assert paper_tables.abx_table(runs).rows == [["VGS", "0", "–", "4.82 (4)", "–", "6.44 (4)"]]


def test_notes_say_on_what_was_measured(runs) -> None:
    notes = paper_tables.notes(runs)
    assert "ours on 200 images, 400 captions" in notes["retrieval"] and "ours on 1600 tokens" in notes["abx"]
    assert all("arXiv 2306.02972" in note and "n − 1" in note for note in notes.values())


def test_markdown_is_a_pipe_table() -> None:
    text = paper_tables.to_markdown(Table(["run", "R@1"], [["VGS", "3.0 ± 0.1"]]), "A note.")
    assert text == "A note.\n\n| run | R@1 |\n| --- | ---: |\n| VGS | 3.0 ± 0.1 |\n"
    text = paper_tables.to_markdown(Table(["finding", "verdict"], [["a", "shown"]]), numbers=False)
    assert text == "| finding | verdict |\n| --- | --- |\n| a | shown |\n"


def test_latex_escapes_what_it_must_and_sets_chance_apart() -> None:
    table = Table(["run", "s→i", "paper"], [["a_b & c", "3 ± 1", "–"], ["chance", "50 %", ""]])
    lines = paper_tables.to_latex(table, "100 %: n − 1", "tab:x").splitlines()
    assert r"\caption{100 \%: n $-$ 1}" in lines and r"\label{tab:x}" in lines
    assert r"run & s$\to$i & \textit{paper} \\" in lines
    assert r"a\_b \& c & 3 $\pm$ 1 & -- \\" in lines
    assert lines[lines.index(r"chance & 50 \% &  \\") - 1] == r"\midrule"
    assert r"\begin{tabular}{lrr}" in lines
    text = "\n".join(lines)
    assert text.count(r"\begin") == text.count(r"\end") and text.count("{") == text.count("}")
