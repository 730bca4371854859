"""Figures 2 and 3 of Khorrami et al.: ABX error by layer and by update, and both losses by update."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.report.canvas import new_figure, save_png, save_svg
from fairseq_mtssl.report.curves import FEW_POINTS, LOSSES
from fairseq_mtssl.report.evaluations import KINDS, MeasuredRun, Runs
from fairseq_mtssl.report.paper_tables import error_by_layer, in_every
from fairseq_mtssl.report.published import in_papers_order, kinds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour of a variant shows its last phase; of a sequence, line and marker show the first phase.
FAMILIES = {
    "W2V2": ("#0072B2", "#56B4E9", "#332288"),
    "VGS": ("#D55E00", "#E69F00", "#882255"),
    "VGS+": ("#009E73", "#999933", "#004D33"),
}
STROKES = {"W2V2": ("--", "s"), "VGS": (":", "^"), "VGS+": ("-.", "D")}
ALONE = ("-", "o")
OTHERS = ("#000000", "#777777", "#CC79A7")
TITLES = {"within": "within speakers", "across": "across speakers"}
LOSS_KEYS = ("loss_vgs", "loss_ssl")


def strokes(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each variant; they differ among the paper's nine."""
    looks: dict[str, dict[str, Any]] = {}
    for number, variant in enumerate(variants):
        kinds = kinds_of(variant)
        family = FAMILIES.get(kinds[-1])
        if family is None or len(kinds) > 2 or (len(kinds) == 2 and kinds[0] not in STROKES):
            colour, (line, marker) = OTHERS[number % len(OTHERS)], ALONE
        elif len(kinds) == 1:
            colour, (line, marker) = family[0], ALONE
        else:
            firsts = [kind for kind in STROKES if kind != kinds[-1]]
            colour = family[1 + firsts.index(kinds[0])] if kinds[0] in firsts else OTHERS[0]
            line, marker = STROKES[kinds[0]]
        looks[variant] = {"color": colour, "linestyle": line, "marker": marker, "linewidth": 1.6}
    return looks


def draw_abx(runs: Runs, stem: Path) -> list[Path]:
    """Fig. 2 with one curve for each variant, the mean over its seeds.

    The upper panels show the error by layer at the end of the runs, the lower ones the error of the best
    layer by update; the left ones within speakers, the right ones across speakers.

    stem: path of the files without `.png` and `.svg`.
    Returns: both files; none if no run has ABX. Raises: MissingExtraError without matplotlib.
    """
    measured = _with_abx(runs)
    if not measured:
        return []
    figure = new_figure(10.0, 8.0)
    axes = figure.subplots(2, 2, sharey="col")
    style = strokes(list(measured))
    layers = _layers(measured)
    for column, kind in enumerate(KINDS):
        above, below = axes[0][column], axes[1][column]
        for name, seeds in measured.items():
            errors = error_by_layer(seeds, kind)
            positions = [layers.index(layer) for layer in errors]
            means = [statistics.mean(values) for values in errors.values()]
            above.plot(positions, means, label=name, markersize=5, **style[name])
            updates, lowest = lowest_by_update(seeds, kind)
            below.plot(updates, lowest, markersize=5, **style[name])
        above.set_xticks(range(len(layers)), layers)
        above.set_xlabel("layer")
        above.set_title(TITLES[kind], fontsize=11)
        below.set_xlabel("update")
        above.set_ylabel("ABX error (%), at the end")
        below.set_ylabel("ABX error (%), lowest of the layers")
        for axis in (above, below):
            axis.grid(alpha=0.3)
    _legend(figure, axes[0][0])
    return _save(figure, stem)


def draw_abx_by_layer_and_update(runs: Runs, stem: Path) -> list[Path]:
    """Fig. 2 in full: for each variant a panel of the error by layer, with a curve for each checkpoint.

    Later checkpoints are darker. Lines are solid within speakers and dashed across speakers.
    stem, Returns, Raises: as in `draw_abx`.
    """
    measured = _with_abx(runs)
    if not measured:
        return []
    columns = min(3, len(measured))
    rows = math.ceil(len(measured) / columns)
    figure = new_figure(0.6 + 3.1 * columns, 0.9 + 2.5 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    layers = _layers(measured)
    for axis, (name, seeds) in zip(axes.flat, measured.items(), strict=False):
        points = sorted({abx.updates for run in seeds for abx in run.abx})
        for number, updates in enumerate(points):
            for kind, line, marker in (("within", "-", "o"), ("across", "--", "s")):
                errors = _at_update(seeds, updates, kind)
                positions = [layers.index(layer) for layer in errors]
                label = f"{updates} updates" if kind == "within" else None
                look: dict[str, Any] = {"linestyle": line, "marker": marker, "label": label}
                look |= {"markersize": 3, "linewidth": 1.3}
                axis.plot(positions, list(errors.values()), color=_shade(number, len(points)), **look)
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(len(layers)), layers)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(measured) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("layer")
    for axis in axes[:, 0]:
        axis.set_ylabel("ABX error (%)")
    axes[0][0].plot([], [], "-", color="0.3", marker="o", markersize=3, label="within speakers")
    axes[0][0].plot([], [], "--", color="0.3", marker="s", markersize=3, label="across speakers")
    _legend(figure, axes[0][0])
    return _save(figure, stem)


def draw_losses(runs: Runs, stem: Path) -> list[Path]:
    """Fig. 3: L_AV and L_AUD by update on logarithmic scales, with one curve for each variant.

    A curve has a gap where its branch is off. stem: as in `draw_abx`.
    Returns: both files; none if no run logged either loss. Raises: MissingExtraError without matplotlib.
    """
    names = in_papers_order(list(runs))
    series = {key: {name: mean_loss(runs[name], key) for name in names} for key in LOSS_KEYS}
    shown = [key for key in LOSS_KEYS if any(updates for updates, _ in series[key].values())]
    if not shown:
        return []
    titles = dict(LOSSES)
    figure = new_figure(5.2 * len(shown), 5.2)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    style = strokes(names)
    for axis, key in zip(axes, shown, strict=True):
        for number, name in enumerate(names):
            updates, values = series[key][name]
            look = {**style[name], "markersize": 4 if len(updates) < FEW_POINTS else 0}
            # curves of equal first phases coincide; with markers at different updates all of them can be seen
            step = max(1, len(updates) // 8)
            axis.plot(updates, values, label=name, markevery=(number % step, step), **look)
        _log_scale(axis)
        axis.set_xlim(left=0)
        axis.set_xlabel("update")
        axis.set_title(titles[key], fontsize=11)
        axis.grid(alpha=0.3)
    _legend(figure, axes[0])
    return _save(figure, stem)


def mean_loss(runs: Sequence[MeasuredRun], key: str) -> tuple[list[int], list[float]]:
    """Updates and the means over seeds of a loss, NaN where its branch was off; empty if it always was."""
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for update, value in zip(*run.log.training_series(key), strict=True):
            values[update].append(value if value > 0 else math.nan)
    updates = sorted(values)
    means = []
    for update in updates:
        finite = [value for value in values[update] if math.isfinite(value)]
        means.append(statistics.mean(finite) if finite else math.nan)
    return (updates, means) if any(map(math.isfinite, means)) else ([], [])


def lowest_by_update(runs: Sequence[MeasuredRun], kind: str) -> tuple[list[int], list[float]]:
    """Updates and the error of the best layer, the mean over seeds.

    Checkpoints that only some of the measured seeds have are left out.
    """
    lowest: dict[int, list[float]] = defaultdict(list)
    measured = [run for run in runs if run.abx]
    for run in measured:
        for abx in run.abx:
            best = abx.best(kind)
            if best is not None:
                lowest[abx.updates].append(best[1])
    updates = sorted(update for update, errors in lowest.items() if len(errors) == len(measured))
    return updates, [statistics.mean(lowest[update]) for update in updates]


def _at_update(runs: Sequence[MeasuredRun], updates: int, kind: str) -> dict[str, float]:
    """layer -> mean error of the seeds that have a checkpoint of this update."""
    errors = in_every([abx.errors[kind] for run in runs for abx in run.abx if abx.updates == updates])
    return {layer: statistics.mean(values) for layer, values in errors.items()}


def _with_abx(runs: Runs) -> Runs:
    """The variants that have ABX, in the paper's order."""
    return {name: runs[name] for name in in_papers_order(list(runs)) if any(run.abx for run in runs[name])}


def _layers(runs: Runs) -> list[str]:
    """The names of all layers: numbers in increasing order, then other names."""
    every = [abx for seeds in runs.values() for run in seeds for abx in run.abx]
    names = {layer for abx in every for kind in KINDS for layer in abx.errors[kind]}
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _shade(number: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"](0.12 + 0.88 * number / max(count - 1, 1))


def _log_scale(axis: Axes) -> None:
    """Make the axis logarithmic, with numbers at its ticks also where it spans less than a decade."""
    from matplotlib import ticker

    low, high = axis.get_ylim()
    axis.set_yscale("log")
    narrow = low > 0 and high / low < 10
    axis.yaxis.set_major_locator(
        ticker.MaxNLocator(7, steps=[1, 2, 5, 10]) if narrow else ticker.LogLocator(subs=(1.0, 2.0, 5.0))
    )
    axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def _legend(figure: Figure, axis: Axes) -> None:
    handles, names = axis.get_legend_handles_labels()
    look: dict[str, Any] = {"loc": "outside upper center", "fontsize": 9, "handlelength": 3.2}
    figure.legend(handles, names, ncols=min(len(names), 5), frameon=False, **look)


def _save(figure: Figure, stem: Path) -> list[Path]:
    return [
        save_png(figure, stem.with_name(f"{stem.name}.png"), dots_per_inch=140),
        save_svg(figure, stem.with_name(f"{stem.name}.svg")),
    ]
