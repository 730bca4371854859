"""Empty figures, the files they are written to, and the colours that all figures share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mtssl.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: can be distinguished with any kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
HIT, MISS = "#1B8A3A", "#D62728"  # always shown together with a tick or a cross


def new_figure(width_in: float, height_in: float, *, arrange: bool = True) -> Figure:
    """An empty figure. It needs no display and changes no global state of matplotlib.

    arrange: whether matplotlib places the panels so that labels do not overlap; otherwise the caller does.
    Raises: MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing a picture", "matplotlib", "report") from error
    return Figure(figsize=(width_in, height_in), layout="constrained" if arrange else None)


def save_png(figure: Figure, out: str | Path, dots_per_inch: int = 120) -> Path:
    """Write the figure as PNG, creating the folder. Returns: the path."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png", dpi=dots_per_inch)
    return out


def save_svg(figure: Figure, out: str | Path) -> Path:
    """Write the figure as SVG without a date, creating the folder. Returns: the path."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out
