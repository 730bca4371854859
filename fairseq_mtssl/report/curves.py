"""Training curves: a panel for each loss and one for the measures of validation, a colour for each run.

After Fig. 3 of Khorrami et al. 2023, with updates instead of epochs on the horizontal axis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.errors import TrainingLogError
from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png
from fairseq_mtssl.report.training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = (
    ("loss_vgs", "L_AV (nats)"),
    ("loss_ssl", "L_AUD (nats)"),
    ("loss_off", "L_off (nats)"),
    ("loss_on", "L_on"),
)
PLAIN_LOSS = ("loss", "loss")  # fairseq's key, for runs that log none of the above, such as CTC
MEASURES = {
    "s2i_r10": "speech → image",
    "i2s_r10": "image → speech",
    "acc_off": "labels",
    "acc_on": "teacher's frames",
    "wer": "words",
    "uer": "symbols",
}
"""Key -> its name in the legend; other keys are shown as they are."""
LINE_STYLES = ("-", "--", ":", "-.")
FEW_POINTS = 40  # a curve of fewer points has markers, so that a single point can be seen


def draw_curves(
    runs: Mapping[str, TrainingLog],
    out: str | Path,
    phases: Sequence[tuple[int, str]] = (),
) -> Path:
    """Draw `curves_figure` into a PNG. Returns: out."""
    return save_png(curves_figure(runs, phases), out)


def curves_figure(runs: Mapping[str, TrainingLog], phases: Sequence[tuple[int, str]] = ()) -> Figure:
    """Panels of the losses, on logarithmic scales, and of the validation measures of one or more runs.

    A panel shows one of the keys `loss_vgs`, `loss_ssl`, `loss_off` (`loss_off_0`, … with several label sets)
    and `loss_on` of the training lines, or `loss` if there are none of them. A curve has a gap where its
    branch is off. The last panel shows validation in percent: recall at 10 or else accuracies of masked
    prediction or else error rates.

    runs: legend name -> log.
    phases: (first update, name) of each phase, in order; a line marks every start after update 0.
    Raises: TrainingLogError if no run logged a loss; MissingExtraError without matplotlib.
    """
    panels = _logged(runs, [*LOSSES, *_losses_of_sets(runs)]) or _logged(runs, [PLAIN_LOSS])
    if not panels:
        logged = sorted(_training_keys(runs))
        raise TrainingLogError(
            ", ".join(str(log.path) for log in runs.values()) or "no run",
            f"no loss is logged, only {', '.join(logged) or 'nothing'}",
            "Give the log of a training.",
        )
    title, measured = _measured(runs)
    count = len(panels) + bool(measured)
    figure = new_figure(9.0, 0.7 + 2.6 * count)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (key, name) in zip(axes, panels, strict=False):
        _draw_loss(axis, runs, key, name)
    if measured:
        _draw_measures(axes[-1], runs, title, measured)
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
    return figure


def _training_keys(runs: Mapping[str, TrainingLog]) -> set[str]:
    return {key for log in runs.values() for key in log.keys("train_inner") + log.keys("train")}


def _losses_of_sets(runs: Mapping[str, TrainingLog]) -> list[tuple[str, str]]:
    """(key, name) of each label set's loss; sets are counted from 1, as in the health report."""
    matches = [re.fullmatch(r"loss_off_(\d+)", key) for key in _training_keys(runs)]
    numbers = sorted(int(match[1]) for match in matches if match)
    return [(f"loss_off_{number}", f"L_off of set {number + 1} (nats)") for number in numbers]


def _logged(runs: Mapping[str, TrainingLog], losses: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [loss for loss in losses if any(log.training_series(loss[0])[0] for log in runs.values())]


def _measured(runs: Mapping[str, TrainingLog]) -> tuple[str, list[str]]:
    """The title of the last panel and the validation keys that it shows."""
    keys = list(dict.fromkeys(key for log in runs.values() for key in log.keys("valid")))
    kinds = {
        "R@10": [key for key in keys if _is_r10(key)],
        "accuracy": [key for key in keys if key.startswith("acc_")],
        "error rate": [key for key in keys if key in ("wer", "uer")],
    }
    return next(((title, chosen) for title, chosen in kinds.items() if chosen), ("", []))


def _draw_loss(axis: Axes, runs: Mapping[str, TrainingLog], key: str, name: str) -> None:
    from matplotlib import ticker

    for i, (run, log) in enumerate(runs.items()):
        updates, values = log.training_series(key)
        # a branch that is off may log 0, which a logarithmic axis cannot show
        shown = [value if value > 0 else math.nan for value in values]
        axis.plot(updates, shown, color=COLOURS[i % len(COLOURS)], label=run, **_stroke(shown))

    class Plain(ticker.LogFormatter):
        """Writes 0.3 instead of 3e-01."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_yscale("log")
    # minor ticks have numbers only where the axis spans a decade or less
    axis.yaxis.set_major_formatter(Plain())
    axis.yaxis.set_minor_formatter(Plain(labelOnlyBase=False))
    axis.tick_params(axis="y", which="minor", labelsize=7)
    axis.set_ylabel(name)


def _draw_measures(axis: Axes, runs: Mapping[str, TrainingLog], title: str, keys: Sequence[str]) -> None:
    for i, log in enumerate(runs.values()):
        for j, key in enumerate(keys):
            updates, values = log.series(key, "valid")
            style = LINE_STYLES[j % len(LINE_STYLES)]
            axis.plot(updates, values, style, color=COLOURS[i % len(COLOURS)], marker="o", markersize=3)
    for j, key in enumerate(keys):  # grey: the colours stand for the runs
        axis.plot([], [], LINE_STYLES[j % len(LINE_STYLES)], color="0.35", label=MEASURES.get(key, key))
    axis.set_ylim(0, 105)
    axis.set_ylabel(f"validation {title} (%)")
    axis.legend(fontsize=8, loc="best")


def _name_phases(axis: Axes, phases: Sequence[tuple[int, str]]) -> None:
    # x in updates, y as a fraction of the panel's height
    look: dict[str, Any] = {"xycoords": axis.get_xaxis_transform(), "textcoords": "offset points"}
    look |= {"fontsize": 9, "color": "0.25", "annotation_clip": False}
    for update, name in phases:
        axis.annotate(f" {name}", (update, 1.0), xytext=(2, 3), **look)


def _stroke(values: Sequence[float]) -> dict[str, Any]:
    """The look of a curve: a line, with markers if it has few points."""
    sparse = sum(not math.isnan(value) for value in values) < FEW_POINTS
    return {"linewidth": 1.4, "marker": "o" if sparse else None, "markersize": 3}


def _is_r10(key: str) -> bool:
    """Whether a key is R@10, such as `s2i_r10`; `best_…`, fairseq's best value so far, is not."""
    words = key.lower().replace("@", "").split("_")
    return "r10" in words and "best" not in words
