"""How well a phone probe does on each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png

MEASURES = {"accuracy": ("accuracy", "-", "o"), "macro_f1": ("macro-F1", "--", "s")}


def draw_layers(measured: dict[str, Any], out: str | Path) -> Path:
    """Draw what `mtssl probe-layers` measured into a PNG: accuracy and macro-F1 by layer, one colour a split.

    measured: scores (layer -> split -> accuracy and macro_f1, percent), chance (split -> percent) and best
    (its layer, which a ring marks).
    Returns: out. Raises: MissingExtraError without matplotlib.
    """
    layers = list(measured["scores"])
    places = [int(layer) if layer.isdecimal() else place for place, layer in enumerate(layers, start=1)]
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
    return save_png(figure, out)
