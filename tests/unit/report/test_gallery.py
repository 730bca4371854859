"""The gallery: rows, outlines, texts, read back from the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fairseq_mtssl.errors import ImageError, RetrievalError
from fairseq_mtssl.report import canvas, gallery
from fairseq_mtssl.report.gallery import GalleryRow, draw_gallery


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    kept: list[Any] = []

    def keep(figure: Any, out: str | Path) -> Path:
        kept.append(figure)
        return canvas.save_png(figure, out)

    monkeypatch.setattr(gallery, "save_png", keep)
    return kept


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for i, size in enumerate([(20, 20), (400, 300), (10, 30)]):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", size, (80 * i, 0, 0)).save(paths[-1])
    return paths


def test_true_image_left_then_hits_green_and_misses_red(
    figures: list[Any], pictures: list[Path], tmp_path: Path
) -> None:
    rows = [GalleryRow("two red rings", pictures[0], pictures[1:], [False, True])]
    out = draw_gallery(rows, tmp_path / "out" / "g.png", title="split test")
    assert out.read_bytes().startswith(b"\x89PNG")
    text, true, first, second = figures[0].axes
    assert text.texts[0].get_text() == "two red rings"
    outlines = [to_hex(axis.spines["left"].get_edgecolor()).upper() for axis in (first, second)]
    assert outlines == [canvas.MISS, canvas.HIT]
    assert [axis.texts[0].get_text() for axis in (first, second)] == ["✗", "✓"]
    assert not true.texts
    assert [axis.get_title() for axis in (true, first, second)] == ["its image", "1", "2"]
    # the grey value of each file is in its place
    assert [int(axis.images[0].get_array()[0, 0, 0]) for axis in (true, first, second)] == [0, 80, 160]


def test_images_are_squares_of_at_most_the_thumbnail(
    figures: list[Any], pictures: list[Path], tmp_path: Path
) -> None:
    draw_gallery([GalleryRow("x", pictures[0], pictures[1:], [True, True])], tmp_path / "g.png")
    assert [axis.images[0].get_array().shape[:2] for axis in figures[0].axes[1:]] == [
        (20, 20),
        (160, 160),
        (10, 10),
    ]


def test_long_texts_wrap_and_short_rows_leave_cells_empty(
    figures: list[Any], pictures: list[Path], tmp_path: Path
) -> None:
    rows = [
        GalleryRow("word " * 100, pictures[0], pictures, [True] * 3),
        GalleryRow("", pictures[0], pictures[:1], [True]),
    ]
    draw_gallery(rows, tmp_path / "g.png")
    texts = [axis.texts[0].get_text() for axis in (figures[0].axes[0], figures[0].axes[5])]
    assert max(map(len, texts[0].split("\n"))) <= gallery.TEXT_COLUMNS
    assert texts[0].endswith("…")
    assert texts[1] == "(no text)"
    assert not figures[0].axes[-1].images


def test_no_rows_and_unreadable_images_are_refused(pictures: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="no caption"):
        draw_gallery([], tmp_path / "g.png")
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"bad\.png"):
        draw_gallery([GalleryRow("x", tmp_path / "bad.png", pictures, [True] * 3)], tmp_path / "g.png")
