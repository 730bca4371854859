"""Results by layer in the folder of a run: the JSON of `mtssl evaluate-abx` and `mtssl probe-layers`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.evaluations import KINDS
from fairseq_mtssl.report.layer_plot import abx_figure, probe_figure
from fairseq_mtssl.report.page import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED = re.compile(r"(.+?)_?(\d+)")


@dataclass(frozen=True)
class LayerResult:
    """One file. measured: its content. is_abx: whether `evaluate-abx` wrote it, or else `probe-layers`."""

    path: Path
    measured: dict[str, Any]
    is_abx: bool

    @property
    def title(self) -> str:
        """The measure and the file's name."""
        return f"{'ABX error' if self.is_abx else 'Phone probe'} ({self.path.name})"

    @property
    def about(self) -> str:
        """How the measure was computed, in a sentence."""
        got = self.measured
        if self.is_abx:
            options = ", ".join(str(got[key]) for key in ("distance", "slicing") if key in got)
            split, context = got.get("split", "?"), got.get("context", "?")
            return f"Split {split}, {options}, {context} context. Lower is better."
        return f"{got['phones']} phones, a linear classifier a layer. Higher is better."

    def figure(self) -> Figure | None:
        """The curve over layers; None if there is a single layer."""
        if len(self.measured["scores"]) < 2:
            return None
        return abx_figure(self.measured) if self.is_abx else probe_figure(self.measured)

    def best(self) -> str:
        """The best layer and its scores."""
        scores, best = self.measured["scores"], self.measured["best"]
        if self.is_abx:
            layers = {kind: best.get(kind) for kind in KINDS}
            texts = [f"{k} {scores[n][k]:.2f} % (layer {n})" for k, n in layers.items() if n in scores]
            return ", ".join(texts)
        row = scores[best["layer"]]
        return f"layer {best['layer']}: " + ", ".join(f"{s} {row[s]['accuracy']:.2f} %" for s in row)

    def table(self) -> Table:
        """A row for each layer, in percent."""
        scores = self.measured["scores"]
        if self.is_abx:
            rows = [[name, *(_percent(row[kind]) for kind in KINDS)] for name, row in scores.items()]
            return Table(["layer", *(f"{kind} speakers %" for kind in KINDS)], rows)
        splits, chance = list(self.measured["chance"]), self.measured["chance"]
        measures = {"accuracy": "accuracy %", "macro_f1": "macro-F1 %"}
        header = ["layer", *(f"{split} {name}" for split in splits for name in measures.values())]
        rows = [
            [layer, *(_percent(row[split][key]) for split in splits for key in measures)]
            for layer, row in scores.items()
        ]
        return Table(
            header, [*rows, ["chance", *(text for s in splits for text in (_percent(chance[s]), ""))]]
        )


def in_series(results: Sequence[LayerResult]) -> list[list[LayerResult]]:
    """Group the files that differ only by checkpoint, in the order of checkpoints.

    Files are in one series if they are in the same folder and their names differ only in the last number. A
    file without a number, such as abx.json beside abx_100.json, is the last of its series.
    """
    series: dict[tuple[Path, str, bool], list[tuple[float, LayerResult]]] = {}
    for result in results:
        numbered = NUMBERED.fullmatch(result.path.stem)
        stem, number = (numbered[1], float(numbered[2])) if numbered else (result.path.stem, math.inf)
        series.setdefault((result.path.parent, stem, result.is_abx), []).append((number, result))
    return [[result for _, result in sorted(each, key=lambda pair: pair[0])] for each in series.values()]


def find_layer_results(folder: Path, others: Sequence[str | Path] = ()) -> list[LayerResult]:
    """The results in a folder and its subfolders by path, then those in other files that the user named.

    Other JSON in the folder is skipped. Raises: ConfigError for a named file that holds no results by layer.
    """
    read = (_recognise(path) for path in sorted(folder.rglob("*.json")))
    results = [result for result in read if result is not None]
    known = {result.path.resolve() for result in results}
    return results + [read_layer_result(path) for path in others if Path(path).resolve() not in known]


def read_layer_result(path: str | Path) -> LayerResult:
    """Read a file that the user named. Raises: ConfigError if it holds no results by layer."""
    result = _recognise(Path(path))
    if result is None:
        got = "is absent" if not Path(path).is_file() else "holds no measures by layer"
        raise ConfigError(str(path), [f"{got}; give what evaluate-abx or probe-layers wrote with --json"])
    return result


def _recognise(path: Path) -> LayerResult | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = list(content["scores"].values())
        if "cells" in content and rows and all(set(KINDS) <= set(row) for row in rows):
            return LayerResult(path, content, is_abx=True)
        if "phones" in content and rows and content["best"]["layer"] in content["scores"]:
            wanted = [(split, key) for split in content["chance"] for key in ("accuracy", "macro_f1")]
            if all(key in row[split] for row in rows for split, key in wanted):
                return LayerResult(path, content, is_abx=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
