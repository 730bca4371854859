"""Draws captions with the images that they retrieve; hits and misses have outlines in different colours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.errors import ImageError, RetrievalError
from fairseq_mtssl.report.canvas import HIT, MISS, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

THUMBNAIL_PX = 160
CELL_IN = 1.15
TEXT_IN = 2.6
TEXT_COLUMNS = 28


@dataclass(frozen=True)
class GalleryRow:
    """One caption and what it retrieves.

    caption: its text, or its id. true_image: the file of the image that it describes. retrieved: image files
    in the order of their ranks. hits: for each of them, whether it is relevant.
    """

    caption: str
    true_image: Path
    retrieved: Sequence[Path]
    hits: Sequence[bool]


def draw_gallery(rows: Sequence[GalleryRow], out: str | Path, title: str = "") -> Path:
    """Draw a PNG with a row for each caption: its text, its own image, then the retrieved images by rank.

    Hits have a green outline and a tick, misses a red outline and a cross.
    Returns: out. Raises: RetrievalError without rows, ImageError for an image that cannot be read,
        MissingExtraError without matplotlib.
    """
    if not rows:
        raise RetrievalError("gallery: got no caption; wanted at least one")
    top = max(len(row.retrieved) for row in rows)
    head_in = 0.55 if title else 0.3
    figure = new_figure(TEXT_IN + CELL_IN * (1 + top), CELL_IN * len(rows) + head_in, arrange=False)
    axes = figure.subplots(len(rows), top + 2, squeeze=False, width_ratios=[TEXT_IN] + [CELL_IN] * (top + 1))
    height = figure.get_figheight()
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.08 / height, "top": 1 - head_in / height}
    figure.subplots_adjust(**edges, wspace=0.12, hspace=0.12)
    figure.suptitle(title, x=0.01, y=1 - 0.06 / height, ha="left", va="top", fontsize=10)
    for cells, row in zip(axes, rows, strict=True):
        for cell in cells:
            cell.set_axis_off()
        words = textwrap.shorten(row.caption, 4 * TEXT_COLUMNS, placeholder=" …")
        text = "\n".join(textwrap.wrap(words, TEXT_COLUMNS)) or "(no text)"
        cells[0].text(0.0, 0.5, text, va="center", ha="left", fontsize=9, transform=cells[0].transAxes)
        _show(cells[1], row.true_image, "0.6", "")
        for cell, path, hit in zip(cells[2:], row.retrieved, row.hits, strict=False):
            _show(cell, path, HIT if hit else MISS, "✓" if hit else "✗")
    for cell, name in zip(
        axes[0], ["caption", "its image", *(f"{rank}" for rank in range(1, top + 1))], strict=True
    ):
        cell.set_title(name, fontsize=9, loc="left" if name == "caption" else "center")
    return save_png(figure, out)


def _show(axis: Axes, path: Path, colour: str, mark: str) -> None:
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.imshow(thumbnail(path), interpolation="nearest")
    for side in axis.spines.values():
        side.set_color(colour)
        side.set_linewidth(4 if mark else 1)
    if mark:
        box = {"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": "none"}
        place: dict[str, Any] = {"transform": axis.transAxes, "ha": "right", "va": "bottom"}
        axis.text(0.93, 0.07, mark, fontsize=9, color="white", bbox=box, **place)


def thumbnail(path: Path, side_px: int = THUMBNAIL_PX) -> Image.Image:
    """The centred square of an image in RGB, as image encoders get it; smaller images are not enlarged.

    Raises: ImageError.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(path, f"cannot be read for the gallery ({error})", "Check the file.") from error
    side = min(*picture.size, side_px)
    return ImageOps.fit(picture, (side, side))
