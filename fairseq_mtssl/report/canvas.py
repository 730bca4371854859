"""The one place that asks for matplotlib, and the colours all pictures share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mtssl.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart by people with any kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
HIT, MISS = "#1B8A3A", "#D62728"  # always beside a tick or a cross


def new_figure(width_in: float, height_in: float, *, arrange: bool = True) -> Figure:
    """An empty figure, in inches, that draws without a display and touches no global state of matplotlib.

    arrange: let matplotlib place the panels so that labels do not overlap; False leaves that to the caller.
    Raises: MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing a picture", "matplotlib", "report") from error
    return Figure(figsize=(width_in, height_in), layout="constrained" if arrange else None)


def save_png(figure: Figure, out: str | Path, dots_per_inch: int = 120) -> Path:
    """Write the figure as PNG, making its folder; returns the path."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png", dpi=dots_per_inch)
    return out


def save_svg(figure: Figure, out: str | Path) -> Path:
    """Write the figure as SVG, without the date it was drawn on, making its folder; returns the path."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out
