"""L_AV and L_AUD by update, one colour a run, with the phases of the schedule; R@10 below if measured.

The training figure of Khorrami et al. 2023 (their Fig. 3), by update instead of epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.errors import TrainingLogError
from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png
from fairseq_mtssl.report.training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = (("loss_vgs", "L_AV"), ("loss_ssl", "L_AUD"))
DIRECTIONS = {"s2i": "speech → image", "i2s": "image → speech"}
LINE_STYLES = ("-", "--", ":", "-.")
FEW_POINTS = 40  # fewer than this and each is marked, so that one alone can be seen


def draw_curves(
    runs: Mapping[str, TrainingLog],
    out: str | Path,
    phases: Sequence[tuple[int, str]] = (),
) -> Path:
    """Draw the losses of one or more runs into a PNG.

    runs: legend name -> log. The losses are the keys `loss_vgs` and `loss_ssl` of the training lines, nats,
        on a log scale; where a branch is off, its line breaks. A third panel shows every validation key that
        names `r10`, in percent, when there is one.
    phases: (first update, name) of each phase, in order; a line marks every start after update 0.
    Returns: out.
    Raises: TrainingLogError when no run logged either loss; MissingExtraError without matplotlib.
    """
    panels = [loss for loss in LOSSES if any(log.training_series(loss[0])[0] for log in runs.values())]
    if not panels:
        logged = sorted({key for log in runs.values() for key in log.keys("train_inner") + log.keys("train")})
        raise TrainingLogError(
            ", ".join(str(log.path) for log in runs.values()) or "no run",
            f"neither loss_vgs nor loss_ssl is logged, only {', '.join(logged) or 'nothing'}",
            "Give the log of a run of this package.",
        )
    recalls = list(dict.fromkeys(key for log in runs.values() for key in log.keys("valid") if _is_r10(key)))
    count = len(panels) + bool(recalls)
    figure = new_figure(9.0, 0.7 + 2.6 * count)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (key, name) in zip(axes, panels, strict=False):
        _draw_loss(axis, runs, key, name)
    if recalls:
        _draw_recall(axes[-1], runs, recalls)
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
        for update, _ in phases:
            if update > 0:
                axis.axvline(update, color="0.35", linestyle="--", linewidth=1)
    last = max(log.last_update for log in runs.values())
    axes[-1].set_xlim(0, max(last, 1))
    axes[-1].set_xlabel("update")
    _name_phases(axes[0], phases)
    handles, names = axes[0].get_legend_handles_labels()
    if len(runs) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(runs), 4), frameon=False)
    return save_png(figure, out)


def _draw_loss(axis: Axes, runs: Mapping[str, TrainingLog], key: str, name: str) -> None:
    from matplotlib import ticker

    for i, (run, log) in enumerate(runs.items()):
        updates, values = log.training_series(key)
        # a log axis has no place for 0, which is what a switched-off branch may log
        shown = [value if value > 0 else math.nan for value in values]
        axis.plot(updates, shown, color=COLOURS[i % len(COLOURS)], label=run, **_stroke(shown))
    axis.set_yscale("log")
    # plain numbers instead of powers of ten; between them only where a decade or less is in view
    axis.yaxis.set_major_formatter(ticker.LogFormatter())
    axis.yaxis.set_minor_formatter(ticker.LogFormatter(labelOnlyBase=False))
    axis.tick_params(axis="y", which="minor", labelsize=7)
    axis.set_ylabel(f"{name} (nats)")


def _draw_recall(axis: Axes, runs: Mapping[str, TrainingLog], keys: Sequence[str]) -> None:
    for i, log in enumerate(runs.values()):
        for j, key in enumerate(keys):
            updates, values = log.series(key, "valid")
            style = LINE_STYLES[j % len(LINE_STYLES)]
            axis.plot(updates, values, style, color=COLOURS[i % len(COLOURS)], marker="o", markersize=3)
    for j, key in enumerate(keys):  # one grey entry a key: colours already tell the runs apart
        axis.plot([], [], LINE_STYLES[j % len(LINE_STYLES)], color="0.35", label=_recall_name(key))
    axis.set_ylim(0, 105)
    axis.set_ylabel("validation R@10 (%)")
    axis.legend(fontsize=8, loc="best")


def _name_phases(axis: Axes, phases: Sequence[tuple[int, str]]) -> None:
    for update, name in phases:
        # x in updates, y as a fraction of the panel's height
        axis.annotate(
            f" {name}",
            (update, 1.0),
            xycoords=axis.get_xaxis_transform(),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=9,
            color="0.25",
            annotation_clip=False,
        )


def _stroke(values: Sequence[float]) -> dict[str, Any]:
    """A line alone for a dense curve; marked points for a sparse one, where a single point would not show."""
    sparse = sum(not math.isnan(value) for value in values) < FEW_POINTS
    return {"linewidth": 1.4, "marker": "o" if sparse else None, "markersize": 3}


def _recall_name(key: str) -> str:
    """A key of ours in words; another's as it is."""
    direction = key.removesuffix("_r10")
    return DIRECTIONS.get(direction, key)


def _is_r10(key: str) -> bool:
    """Whether a key names R@10 (`r10` as a word of its own); fairseq's running `best_…` is not drawn."""
    words = key.lower().replace("@", "").split("_")
    return "r10" in words and "best" not in words
