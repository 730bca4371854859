"""The training picture: what is drawn where, read back from the figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fairseq_mtssl.errors import MissingExtraError, TrainingLogError
from fairseq_mtssl.report import canvas, curves
from fairseq_mtssl.report.training_log import Record, TrainingLog

pytest.importorskip("matplotlib")


def log(*records: Record) -> TrainingLog:
    return TrainingLog(Path("train.log"), records)


def inner(updates: int, **values: float) -> Record:
    return Record("train_inner", updates, values)


def valid(updates: int, **values: float) -> Record:
    return Record("valid", updates, values)


SEQUENTIAL = log(
    inner(10, loss_ssl=6.0),
    inner(20, loss_ssl=5.0),
    Record("valid", 20, {"s2i_r10": 10.0, "best_s2i_r10": 10.0, "loss": 3.0}),
    inner(30, loss_vgs=8.0, loss_ssl=0.0),
    Record("valid", 30, {"s2i_r10": 40.0, "best_s2i_r10": 40.0, "loss": 3.0}),
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    kept: list[Any] = []

    def keep(figure: Any, out: str | Path) -> Path:
        kept.append(figure)
        return canvas.save_png(figure, out)

    monkeypatch.setattr(curves, "save_png", keep)
    return kept


def test_losses_on_log_scales_phases_marked_and_recall_below(figures: list[Any], tmp_path: Path) -> None:
    out = curves.draw_curves({"run": SEQUENTIAL}, tmp_path / "deep" / "c.png", [(0, "W2V2"), (20, "VGS")])
    assert out.read_bytes().startswith(b"\x89PNG")
    vgs, ssl, recall = figures[0].axes
    assert [axis.get_yscale() for axis in (vgs, ssl, recall)] == ["log", "log", "linear"]
    assert vgs.get_ylabel() == "L_AV (nats)" and ssl.get_ylabel() == "L_AUD (nats)"
    # the start of the run is named but needs no line; the switch has one in every panel
    for axis in (vgs, ssl, recall):
        assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [20]
    assert [text.get_text().strip() for text in vgs.texts] == ["W2V2", "VGS"]
    assert recall.lines[0].get_ydata().tolist() == [10.0, 40.0]
    assert [text.get_text() for text in recall.get_legend().get_texts()] == ["speech → image"]


def test_a_switched_off_loss_breaks_the_line_even_when_logged_as_zero(
    figures: list[Any], tmp_path: Path
) -> None:
    curves.draw_curves({"run": SEQUENTIAL}, tmp_path / "c.png")
    vgs, ssl = figures[0].axes[:2]
    assert [math.isnan(y) for y in vgs.lines[0].get_ydata()] == [True, True, False]
    assert [math.isnan(y) for y in ssl.lines[0].get_ydata()] == [False, False, True]
    assert vgs.lines[0].get_marker() == "o"  # a lone point would not show as a line


def test_each_run_has_its_colour_and_name(figures: list[Any], tmp_path: Path) -> None:
    runs = {"VGS": log(inner(10, loss_vgs=8.0)), "VGS+": log(inner(10, loss_vgs=7.0, loss_ssl=6.0))}
    curves.draw_curves(runs, tmp_path / "c.png")
    vgs = figures[0].axes[0]
    assert vgs.lines[0].get_color() != vgs.lines[1].get_color()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["VGS", "VGS+"]


def test_a_loss_no_run_has_gets_no_panel(figures: list[Any], tmp_path: Path) -> None:
    curves.draw_curves({"VGS": log(inner(10, loss_vgs=8.0))}, tmp_path / "c.png")
    assert len(figures[0].axes) == 1


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingLogError, match="no loss is logged, only accuracy, ppl"):
        curves.draw_curves({"lm": log(inner(10, accuracy=3.0, ppl=8.0))}, tmp_path / "c.png")


def test_a_run_of_mt4ssl_has_both_losses_and_both_accuracies(figures: list[Any], tmp_path: Path) -> None:
    run = log(inner(10, loss_off=4.0, loss_on=9.0), valid(10, acc_off=20.0, acc_on=5.0, loss=3.0))
    curves.draw_curves({"both": run}, tmp_path / "c.png")
    off, on, accuracy = figures[0].axes
    assert (off.get_ylabel(), on.get_ylabel()) == ("L_off (nats)", "L_on")
    assert accuracy.get_ylabel() == "validation accuracy (%)" and len(accuracy.get_legend().texts) == 2


def test_each_of_several_label_sets_has_a_panel(figures: list[Any], tmp_path: Path) -> None:
    sets = {"loss_off_1": 5.0, "loss_off_0": 4.0, "loss_off_chance_0": 6.0, "acc_off_0": 1.0}
    curves.draw_curves({"sets": log(inner(10, loss_ssl=9.0, **sets))}, tmp_path / "c.png")
    names = [axis.get_ylabel() for axis in figures[0].axes]
    assert names == ["L_AUD (nats)", "L_off of set 1 (nats)", "L_off of set 2 (nats)"]
    assert figures[0].axes[1].lines[0].get_ydata().tolist() == [4.0]


def test_a_run_of_fairseqs_own_losses_has_its_loss_and_error_rates(
    figures: list[Any], tmp_path: Path
) -> None:
    curves.draw_curves({"ctc": log(inner(10, loss=9.0), valid(10, wer=50.0, uer=20.0))}, tmp_path / "c.png")
    loss, rates = figures[0].axes
    assert (loss.get_ylabel(), rates.get_ylabel()) == ("loss", "validation error rate (%)")


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("s2i_r10", True),
        ("image_to_speech_r10", True),
        ("best_s2i_r10", False),
        ("s2i_r1", False),
        ("r100", False),
    ],
)
def test_only_keys_of_recall_at_10_are_drawn_as_recall(key: str, wanted: bool) -> None:
    assert curves._is_r10(key) is wanted


def test_without_matplotlib_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "fairseq-mtssl\[report\]"'):
        curves.draw_curves({"run": SEQUENTIAL}, tmp_path / "c.png")
