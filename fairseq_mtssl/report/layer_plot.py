"""What each layer knows of phones: how well a probe tells them, and how often ABX does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"accuracy": ("accuracy", "-", "o"), "macro_f1": ("macro-F1", "--", "s")}


def draw_layers(measured: dict[str, Any], out: str | Path) -> Path:
    """Draw `probe_figure` into a PNG; returns out."""
    return save_png(probe_figure(measured), out)


def probe_figure(measured: dict[str, Any]) -> Figure:
    """What `mtssl probe-layers` measured: accuracy and macro-F1 by layer, one colour a split.

    measured: scores (layer -> split -> accuracy and macro_f1, percent), chance (split -> percent) and best
    (its layer, which a ring marks).
    Raises: MissingExtraError without matplotlib.
    """
    layers = list(measured["scores"])
    places = _places(layers)
    figure = new_figure(6.4, 4.0)
    axis = figure.subplots()
    for colour, split in zip(COLOURS, measured["chance"], strict=False):
        for key, (name, line, mark) in MEASURES.items():
            values = [measured["scores"][layer][split][key] for layer in layers]
            axis.plot(places, values, line, marker=mark, markersize=4, color=colour, label=f"{split} {name}")
        chance = measured["chance"][split]
        axis.axhline(chance, color=colour, linestyle=":", linewidth=1, label=f"{split} chance")
    best = measured["best"]["layer"]
    place, height = places[layers.index(best)], measured["scores"][best]["valid"]["accuracy"]
    axis.plot([place], [height], "o", markersize=12, fillstyle="none", color="0.2", label="best on valid")
    axis.set_xticks(places, layers)
    axis.set_xlabel("layer")
    axis.set_ylabel("frames told right (%), macro-F1 (%)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def abx_figure(measured: dict[str, Any]) -> Figure:
    """What `mtssl evaluate-abx` measured: error within and across speakers by layer.

    measured: scores (layer -> within and across, percent or None) and best (of each, its layer, ringed).
    Raises: MissingExtraError without matplotlib.
    """
    layers = list(measured["scores"])
    places = _places(layers)
    figure = new_figure(6.4, 4.0)
    axis = figure.subplots()
    for kind, colour, line, mark in zip(("within", "across"), COLOURS, ("-", "--"), ("o", "s"), strict=False):
        found = [measured["scores"][layer][kind] for layer in layers]
        errors = [math.nan if error is None else error for error in found]
        axis.plot(places, errors, line, marker=mark, markersize=4, color=colour, label=f"{kind} speakers")
        best = measured["best"][kind]
        if best in layers:
            place = layers.index(best)
            axis.plot([places[place]], [errors[place]], "o", markersize=12, fillstyle="none", color=colour)
    axis.set_xticks(places, layers)
    axis.set_xlabel("layer")
    axis.set_ylabel("ABX error (%), ring: best")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _places(layers: Sequence[str]) -> list[int]:
    """Where each layer stands on the axis: at its number, or at its position where it has none."""
    return [int(layer) if layer.isdecimal() else place for place, layer in enumerate(layers, start=1)]
