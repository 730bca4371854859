"""Figures of measures by layer: accuracy of phone probes and ABX error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {"accuracy": ("accuracy", "-", "o"), "macro_f1": ("macro-F1", "--", "s")}
RING: dict[str, Any] = {"marker": "o", "markersize": 12, "fillstyle": "none", "linestyle": "none"}


def draw_layers(measured: dict[str, Any], out: str | Path) -> Path:
    """Draw `probe_figure` into a PNG. Returns: out."""
    return save_png(probe_figure(measured), out)


def probe_figure(measured: dict[str, Any]) -> Figure:
    """Accuracy and macro-F1 of phone probes by layer, with a colour for each split.

    measured: the JSON of `mtssl probe-layers`: scores (layer -> split -> accuracy and macro_f1 in percent),
        chance (split -> percent) and best (its layer has a ring).
    Raises: MissingExtraError without matplotlib.
    """
    scores, best = measured["scores"], measured["best"]["layer"]
    figure, axis, positions = _empty(measured)
    for colour, split in zip(COLOURS, measured["chance"], strict=False):
        for key, (name, line, mark) in MEASURES.items():
            values = [row[split][key] for row in scores.values()]
            look: dict[str, Any] = {"linestyle": line, "marker": mark, "markersize": 4, "color": colour}
            axis.plot([*positions.values()], values, label=f"{split} {name}", **look)
        chance = measured["chance"][split]
        axis.axhline(chance, color=colour, linestyle=":", linewidth=1, label=f"{split} chance")
    accuracy = scores[best]["valid"]["accuracy"]
    axis.plot([positions[best]], [accuracy], color="0.2", label="best on valid", **RING)
    axis.set_ylabel("frames classified correctly (%), macro-F1 (%)")
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def abx_figure(measured: dict[str, Any]) -> Figure:
    """ABX error within and across speakers by layer.

    measured: the JSON of `mtssl evaluate-abx`: scores (layer -> within and across, percent or None) and best
        (of each, its layer, which has a ring).
    Raises: MissingExtraError without matplotlib.
    """
    scores = measured["scores"]
    figure, axis, positions = _empty(measured)
    for kind, colour, line, mark in zip(("within", "across"), COLOURS, ("-", "--"), ("o", "s"), strict=False):
        errors = {layer: math.nan if row[kind] is None else row[kind] for layer, row in scores.items()}
        look: dict[str, Any] = {"linestyle": line, "marker": mark, "markersize": 4, "color": colour}
        axis.plot([*positions.values()], [*errors.values()], label=f"{kind} speakers", **look)
        best = measured["best"][kind]
        if best in errors:
            axis.plot([positions[best]], [errors[best]], color=colour, **RING)
    axis.set_ylabel("ABX error (%), ring: best")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _empty(measured: dict[str, Any]) -> tuple[Figure, Axes, dict[str, int]]:
    """A figure, its axes, and the position of each layer: its number, or its place if it has none."""
    layers = list(measured["scores"])
    positions = {
        layer: int(layer) if layer.isdecimal() else place for place, layer in enumerate(layers, start=1)
    }
    figure = new_figure(6.4, 4.0)
    axis = figure.subplots()
    axis.set_xticks(list(positions.values()), layers)
    axis.set_xlabel("layer")
    axis.grid(alpha=0.3)
    return figure, axis, positions
