"""Tables I and II of Khorrami et al. with our numbers beside theirs, as Markdown and LaTeX."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from fairseq_mtssl.report.evaluations import KINDS, MeasuredRun, Runs
from fairseq_mtssl.report.findings import Finding
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.published import PUBLISHED, SOURCE, in_papers_order

RECALLS = {"s2i_r1": "s→i R@1", "s2i_r10": "s→i R@10", "i2s_r1": "i→s R@1", "i2s_r10": "i→s R@10"}
NOTHING = "–"
THEIRS = "paper"
SPREAD = "Several seeds: mean ± standard deviation over them (n − 1)."
LATEX = {"→": r"$\to$", "±": r"$\pm$", "–": "--", "−": "$-$", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}


def retrieval_table(runs: Runs) -> Table:
    """Table I: recalls in percent at the end of the runs; the last row is chance."""
    rows = []
    for variant in in_papers_order(list(runs)):
        measured = [run.retrieval for run in runs[variant] if run.retrieval is not None]
        cells = []
        for key in RECALLS:
            theirs = PUBLISHED.get(variant)
            cells += [
                mean_and_spread([scores.recalls[key] for scores in measured]),
                f"{getattr(theirs, key):.1f}" if theirs else NOTHING,
            ]
        rows.append([variant, str(len(measured)), *cells])
    results = [run.retrieval for seeds in runs.values() for run in seeds if run.retrieval is not None]
    if results:
        chances = (f"{results[0].chance[key]:.1f}" for key in RECALLS)
        rows.append(["chance", "", *(cell for chance in chances for cell in (chance, ""))])
    return Table(_header(RECALLS.values()), rows)


def abx_table(runs: Runs) -> Table:
    """Table II: ABX errors in percent of the last checkpoints measured, each at the best layer.

    The best layer is the one with the lowest mean over the seeds.
    """
    rows = []
    for variant in in_papers_order(list(runs)):
        theirs = PUBLISHED.get(variant)
        cells = []
        for kind in KINDS:
            cells += [
                best_layer(runs[variant], kind),
                f"{getattr(theirs, kind):.2f} ({getattr(theirs, f'{kind}_layer')})" if theirs else NOTHING,
            ]
        rows.append([variant, str(sum(run.final_abx is not None for run in runs[variant])), *cells])
    return Table(_header(f"{kind} (layer)" for kind in KINDS), rows)


def best_layer(runs: Sequence[MeasuredRun], kind: str) -> str:
    """The lowest mean over seeds with its layer, such as `6.95 ± 0.10 (2)`."""
    layers = error_by_layer(runs, kind)
    if not layers:
        return NOTHING
    layer = min(layers, key=lambda name: statistics.mean(layers[name]))
    return f"{mean_and_spread(layers[layer], places=2)} ({layer})"


def error_by_layer(runs: Sequence[MeasuredRun], kind: str) -> dict[str, list[float]]:
    """layer -> error of each seed at the end, of the layers that all measured seeds have."""
    return in_every([run.final_abx.errors[kind] for run in runs if run.final_abx is not None])


def in_every(errors: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """layer -> its value in each of the given mappings, of the layers that all of them have."""
    common = [layer for layer in errors[0] if all(layer in each for each in errors)] if errors else []
    return {layer: [each[layer] for each in errors] for layer in common}


def mean_and_spread(values: Sequence[float], places: int = 1) -> str:
    """`12.3` for one value, `12.3 ± 0.4` for several: the mean and the standard deviation (n − 1)."""
    if not values:
        return NOTHING
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{places}f}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """A row for each finding."""
    return Table(["finding", "verdict", "numbers"], [[f.claim, f.verdict, f.numbers] for f in findings])


def notes(runs: Runs) -> dict[str, str]:
    """The notes of the tables `retrieval` and `abx`: what was measured, on how much data."""
    measured = [run for seeds in runs.values() for run in seeds]
    sizes = sorted({(r.retrieval.images, r.retrieval.captions) for r in measured if r.retrieval is not None})
    on = " and ".join(f"{images} images, {captions} captions" for images, captions in sizes)
    tokens = sorted({run.final_abx.tokens for run in measured if run.final_abx is not None})
    compared = " and ".join(map(str, tokens))
    return {
        "retrieval": f"Recalls in percent, ours on {on or 'nothing yet'}; the paper's on 5000 images, 25000 "
        f"captions of SpokenCOCO ({SOURCE}, Table I). {SPREAD}",
        "abx": f"Errors in percent, chance 50, ours on {compared or 'no'} tokens of our corpus; the paper's "
        f"on LibriSpeech dev-clean ({SOURCE}, Table II). In brackets the layer, chosen by this very error, "
        f"as in the paper. {SPREAD}",
    }


def to_markdown(table: Table, note: str = "", numbers: bool = True) -> str:
    """The table in Markdown. numbers: whether all columns but the first are aligned to the right."""
    rule = ["---", *("---:" if numbers else "---" for _ in table.header[1:])]
    lines = ["| " + " | ".join(row) + " |" for row in [table.header, rule, *table.rows]]
    return "\n".join([*([note, ""] if note else []), *lines]) + "\n"


def to_latex(table: Table, caption: str, label: str) -> str:
    """The table in a `table` environment, scaled down where it is wider than the line.

    The headers of the paper's columns are in italics.
    """
    head = [_latex(name) if name != THEIRS else rf"\textit{{{name}}}" for name in table.header]
    body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in table.rows]
    if table.rows and table.rows[-1][0] == "chance":
        body.insert(-1, r"\midrule")
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        rf"\label{{{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header(columns: Iterable[str]) -> list[str]:
    return ["run", "seeds", *(cell for name in columns for cell in (name, THEIRS))]


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
