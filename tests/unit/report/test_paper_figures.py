"""Figures 2 and 3: which curves are where, read back from the figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import paper_runs
import pytest

from fairseq_mtssl.report import canvas, paper_figures
from fairseq_mtssl.report.evaluations import MeasuredRun, by_variant, read_run
from fairseq_mtssl.report.published import PUBLISHED, variant_name

pytest.importorskip("matplotlib")

Runs = dict[str, list[MeasuredRun]]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All variants, two seeds of each."""
    folder = tmp_path_factory.mktemp("runs")
    return by_variant(
        [
            read_run(
                paper_runs.write_run(folder / f"{name}{seed}", name, seed, error=30.0 + place + seed),
                variant_name(name),
                str(seed),
            )
            for place, name in enumerate(paper_runs.NINE)
            for seed in (1, 2)
        ]
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    kept: list[Any] = []

    def keep(figure: Any, out: Path, **options: Any) -> Path:
        kept.append(figure)
        return canvas.save_png(figure, out, **options)

    monkeypatch.setattr(paper_figures, "save_png", keep)
    return kept


def drawn(axis: Any) -> list[Any]:
    return [line for line in axis.lines if len(line.get_xdata())]


def test_no_two_of_the_nine_look_alike_and_each_is_told_by_colour_alone() -> None:
    styles = paper_figures.strokes(list(PUBLISHED))
    assert len({style["color"] for style in styles.values()}) == 9
    last_vgs = [styles[name] for name in ("(W2V2, VGS)", "(VGS+, VGS)", "VGS")]
    assert len({(style["linestyle"], style["marker"]) for style in last_vgs}) == 3
    assert len(paper_figures.strokes(["mine", "(a, b)", "(W2V2, VGS, VGS+)"])) == 3


def test_abx_is_drawn_by_layer_and_by_update(nine: Runs, figures: list[Any], tmp_path: Path) -> None:
    png, svg = paper_figures.draw_abx(nine, tmp_path / "deep" / "fig2.a")
    assert png.name == "fig2.a.png" and png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes() and b"<dc:date>" not in svg.read_bytes()
    axes = figures[0].axes
    assert [len(drawn(axis)) for axis in axes] == [9, 9, 9, 9]
    within, across, within_by_update, _ = axes
    # W2V2, first of the nine: 30 + 0 + seeds 1 and 2, on average 31.5, two more a layer
    assert drawn(within)[0].get_ydata() == pytest.approx([31.5, 33.5, 35.5])
    assert drawn(across)[0].get_ydata() == pytest.approx([32.5, 33.5, 34.5])
    assert list(drawn(within_by_update)[0].get_xdata()) == list(paper_runs.POINTS)
    assert drawn(within_by_update)[0].get_ydata()[-1] == pytest.approx(31.5)
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert names == list(PUBLISHED)


def test_each_variant_has_a_panel_with_its_checkpoints(
    nine: Runs, figures: list[Any], tmp_path: Path
) -> None:
    paper_figures.draw_abx_by_layer_and_update(nine, tmp_path / "layers")
    panels = [axis for axis in figures[0].axes if axis.axison]
    assert [axis.get_title() for axis in panels] == list(PUBLISHED)
    assert [len(drawn(axis)) for axis in panels] == [2 * len(paper_runs.POINTS)] * 9


def test_losses_are_there_while_their_branch_is(nine: Runs, figures: list[Any], tmp_path: Path) -> None:
    paper_figures.draw_losses(nine, tmp_path / "fig3")
    vgs, ssl = figures[0].axes
    assert [axis.get_yscale() for axis in (vgs, ssl)] == ["log", "log"]
    assert len(drawn(vgs)) == 8 and len(drawn(ssl)) == 8  # W2V2 has no L_AV, VGS no L_AUD
    by_name = {line.get_label(): line for line in drawn(vgs)}
    sequence = by_name["(W2V2, VGS)"]
    shown = [x for x, y in zip(sequence.get_xdata(), sequence.get_ydata()) if not math.isnan(y)]
    assert shown == list(range(25, 71, 5))
    # 7 − 70/20 + seeds 0.1 and 0.2
    assert sequence.get_ydata()[-1] == pytest.approx(3.65)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == list(PUBLISHED)


def test_seeds_that_lack_a_checkpoint_take_it_from_the_mean(tmp_path: Path) -> None:
    folders = [paper_runs.write_run(tmp_path / f"{seed}", "vgs", seed) for seed in (1, 2)]
    (folders[0] / "evaluation" / "abx_30" / "abx_30.json").unlink()
    runs = [read_run(folder, "VGS", str(seed)) for seed, folder in enumerate(folders)]
    assert paper_figures.lowest_by_update(runs, "within")[0] == [10, 20, 50, 70]


def test_without_what_it_shows_a_figure_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text('{"epoch": 1, "update": 0.1, "num_updates": "5", "loss": "7"}')
    runs = {"VGS": [read_run(tmp_path, "VGS", "1")]}
    for draw in (
        paper_figures.draw_abx,
        paper_figures.draw_abx_by_layer_and_update,
        paper_figures.draw_losses,
    ):
        assert draw(runs, tmp_path / "fig") == []
    assert not list(tmp_path.glob("fig*"))


def test_a_single_loss_value_still_has_ticks(figures: list[Any], tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text('{"epoch": 1, "update": 0.1, "num_updates": "5", "loss_vgs": "4.2"}')
    paper_figures.draw_losses({"mine": [read_run(tmp_path, "mine", "1")]}, tmp_path / "fig3")
    (axis,) = figures[0].axes
    low, high = axis.get_ylim()
    assert [tick for tick in axis.get_yticks() if low <= tick <= high]
