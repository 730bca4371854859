"""The output of the few-pairs example, made from records: table, curve, findings, page.

Rules, fixed before any run, with `weigh` of fairseq_mtssl/report/findings.py. For each number of
pairs: "A first helps" and "VGS+ helps" are judged by R@10, the mean of both directions, of A (or VGS+) less
that of VGS alone with the same seed. It is shown if the difference counts and is positive, contradicted if it
counts and is negative, else not shown. A difference counts if it has one sign in all seeds and its mean is
above the spread over seeds and above twice the error of sampling the test captions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples import results
from examples.few_pairs.jobs import ALL, LONG, SHORT, TITLES, TOWER
from examples.records import Record
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.canvas import COLOURS, new_figure, save_png
from fairseq_mtssl.report.findings import Finding, Score, weigh
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.paper_tables import findings_table, mean_and_spread, to_markdown

MEASURES = {"r1": "R@1", "r10": "R@10"}
BY = {"image": "fewer images, each with all its captions", "caption": "fewer captions an image"}
COMPARED = (
    *((first, f"VGS, {length}") for first in ("(W2V2, VGS)", "(MT4SSL, VGS)") for length in (SHORT, LONG)),
    *(("(MT4SSL, VGS)", f"VGS at constant speed, {length}") for length in (SHORT, LONG)),
    ("VGS+", f"VGS, {LONG}"),
    *((f"(W2V2, VGS), {TOWER}", f"VGS, {TOWER}, {length}") for length in (SHORT, LONG)),
    *((f"VGS, {TOWER}, {length}", f"VGS, {length}") for length in (SHORT, LONG)),
)
NOTE = (
    "Mean of speech to image and image to speech on the test split, in percent; several seeds: mean ± "
    "standard deviation over them (n − 1). The sequences have as many updates in all as 'VGS, equal total "
    "updates', and as many of VGS as 'VGS, equal VGS updates'. (MT4SSL, VGS) is trained at constant speed, "
    "as its labels want it, and the others with the recipe's changes of speed unless so named."
)
HEADING = "Few pairs: does self-supervision on all captions help?"

Cell = tuple[str, str, str]
"""title, pairs, by"""


def scores_of(found: Sequence[Record], measure: str) -> dict[Cell, dict[int, float]]:
    """Cell -> seed -> recall in percent, the mean of both directions. `by` of all pairs is ""."""
    scores: dict[Cell, dict[int, float]] = {}
    for record in found:
        cell = str(record["title"]), str(record["pairs"]), str(record["by"])
        recall = results.mean_recall(record["retrieval"], measure)
        scores.setdefault(cell, {})[int(record["seed"])] = recall
    return scores


def judge(scores: Mapping[Cell, Mapping[int, float]], captions: int) -> list[Finding]:
    """A finding for each comparison and each number of pairs that was measured. scores: of R@10."""
    sizes = dict.fromkeys((pairs, by) for _, pairs, by in scores)
    found = []
    for pairs, by in sorted(sizes, key=lambda size: (size[1], _number(size[0]))):
        for one, other in COMPARED:
            ours, theirs = scores.get((one, pairs, by), {}), scores.get((other, pairs, by), {})
            seeds = sorted(ours.keys() & theirs.keys())
            if seeds:
                claim = f"{_where(pairs, by)}: {one} retrieves better than {other}"
                found.append(_judge([ours[s] for s in seeds], [theirs[s] for s in seeds], claim, captions))
    return found


def _judge(ours: Sequence[float], theirs: Sequence[float], claim: str, captions: int) -> Finding:
    sides = [[Score(value, 0.0, captions) for value in side] for side in (ours, theirs)]
    verdict, numbers = weigh(list(zip(*sides, strict=True)))
    values = [" / ".join(f"{value:.1f}" for value in side) for side in (ours, theirs)]
    return Finding(claim, verdict, f"R@10 {values[0]} against {values[1]}: {numbers}")


def table_of(found: Sequence[Record], by: str) -> Table:
    """A row for each variant with the recalls by number of pairs; the last row is chance."""
    chosen = [record for record in found if record["by"] in (by, "")]
    scores = {name: scores_of(chosen, name) for name in MEASURES}
    sizes = sorted({str(record["pairs"]) for record in chosen}, key=_number)
    header = ["run", *(f"{_where(pairs, '')}, {name}" for pairs in sizes for name in MEASURES.values())]
    rows = []
    for title in _titles(chosen):
        cells = []
        for pairs in sizes:
            cell = title, pairs, "" if pairs == ALL else by
            cells += [mean_and_spread([*scores[name].get(cell, {}).values()]) for name in MEASURES]
        rows.append([title, *cells])
    chance = _chance(chosen)
    rows.append(["chance", *(f"{chance[name]:.1f}" for _ in sizes for name in MEASURES)])
    return Table(header, rows)


def draw(found: Sequence[Record], ways: Sequence[str], out: Path) -> Path:
    """Draw recall by number of pairs: a curve for each variant, bars of one standard deviation.

    ways: `image`, `caption` or both, with a row of panels for each.
    Raises: MissingExtraError without matplotlib.
    """
    from matplotlib.ticker import NullLocator

    figure = new_figure(11.0, 0.8 + 4.2 * len(ways))
    axes = figure.subplots(len(ways), 2, squeeze=False)
    titles = _titles(found)
    whole = _all_pairs(found)
    for row, by in enumerate(ways):
        for axis, (name, label) in zip(axes[row], MEASURES.items(), strict=True):
            scores = scores_of([record for record in found if record["by"] in (by, "")], name)
            for place, title in enumerate(titles):
                points = sorted(
                    (_number(pairs) if pairs != ALL else whole, [*seeds.values()])
                    for (other, pairs, _), seeds in scores.items()
                    if other == title
                )
                if not points:
                    continue
                spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
                means = [statistics.mean(values) for _, values in points]
                look = {"color": COLOURS[place % len(COLOURS)], "linestyle": "--" if TOWER in title else "-"}
                axis.errorbar(
                    [x for x, _ in points], means, spread, label=title, marker="o", capsize=3, **look
                )
            axis.axhline(_chance(found)[name], color="0.6", linestyle=":", label="chance")
            ticks = sorted({_number(str(r["pairs"])) if r["pairs"] != ALL else whole for r in found})
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ylim(0, 102)
            axis.set_xlabel(f"training pairs ({BY[by]})")
            axis.set_ylabel(f"{label} (%), mean of both directions")
            axis.grid(alpha=0.3)
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        entries |= {name: handle for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=3, frameon=False)
    return save_png(figure, out)


def report(found: Sequence[Record], seconds: Mapping[str, float], out: Path) -> None:
    """Write results.json, findings.json, tables.md, curve.png and the page; print tables and findings.

    Raises: ConfigError with every record that lacks retrieval or is of another example.
    """
    errors = [
        f"{record['name']} lacks {', '.join(missing)}; give records of this example"
        for record in found
        if (missing := [key for key in ("pairs", "by", "retrieval") if record.get(key) is None])
    ]
    if errors:
        raise ConfigError("records", errors)
    out.mkdir(parents=True, exist_ok=True)
    ways = sorted({record["by"] for record in found} - {""}, reverse=True) or ["image"]
    captions = int(found[0]["retrieval"]["captions"])
    scores = {name: scores_of(found, name) for name in MEASURES}
    findings = judge(scores["r10"], captions)
    tables = {f"Retrieval by number of pairs ({BY[by]})": table_of(found, by) for by in ways}
    verdicts = findings_table(findings)
    measured = [
        {
            "title": title,
            "pairs": pairs,
            "by": by,
            name: {str(seed): round(value, 3) for seed, value in row.items()},
        }
        for name, cells in scores.items()
        for (title, pairs, by), row in cells.items()
    ]
    rules = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    results.write_json(
        out / "findings.json", {"rules": rules, "findings": [asdict(each) for each in findings]}
    )
    content = {
        "measured": measured,
        "findings": [asdict(each) for each in findings],
        "captions": captions,
        "seconds": seconds,
        "commands": [record["command"] for record in found],
        "versions": results.versions(),
    }
    results.write_json(out / "results.json", content)
    parts = [f"{title}. {NOTE}\n\n{to_markdown(table)}" for title, table in tables.items()]
    (out / "tables.md").write_text(
        "\n".join([*parts, to_markdown(verdicts, numbers=False)]), encoding="utf-8"
    )
    curve = draw(found, ways, out / "curve.png")
    every = [*((title, NOTE, table) for title, table in tables.items()), ("Findings", rules, verdicts)]
    page = results.write_report(
        HEADING, content, every, {"By number of pairs": curve}, {}, out / "index.html"
    )
    for title, table in tables.items():
        print(f"\n{title}\n")
        results.print_table(table)
    print()
    for each in findings:
        print(f"{each.verdict}: {each.claim}. {each.numbers}.")
    print(f"\n{out / 'results.json'}, findings.json, tables.md, {curve}; all in one page: {page}")


def _number(pairs: str) -> float:
    return float("inf") if pairs == ALL else float(pairs)


def _where(pairs: str, by: str) -> str:
    return f"{pairs} pairs{f' ({BY[by]})' if by else ''}"


def _titles(found: Sequence[Record]) -> list[str]:
    present = {str(record["title"]) for record in found}
    return [title for title in TITLES if title in present] + sorted(present - set(TITLES))


def _chance(found: Sequence[Record]) -> dict[str, float]:
    """Measure -> chance, of the first record, because all are measured on the same split."""
    return {name: results.mean_recall(found[0]["retrieval"]["chance"], name) for name in MEASURES}


def _all_pairs(found: Sequence[Record]) -> float:
    """The position of all pairs on the axis: their number, or else three times the largest other number."""
    recorded = [float(record["pairs_in_all"]) for record in found if record.get("pairs_in_all")]
    numbers = [_number(str(record["pairs"])) for record in found if record["pairs"] != ALL]
    return recorded[0] if recorded else 3 * max(numbers, default=1.0)
