"""The record of each run, the table of all records, and verdicts by rules that were fixed before any run.

**Numbers.** For each measure, the layer is chosen on the valid speakers; the number is that of the test
speakers, on whom nothing was chosen. The measures are

- PNMI of 100 clusters, fitted on the train speakers (larger is better);
- ABX error, the mean of within and across speakers, each at its own layer;
- CER after fine-tuning with CTC on ten minutes, with greedy decoding.

**When a difference counts.** Two kinds of runs are paired by seed. As in `fairseq_mtssl/report/findings.py`,
a difference counts if it has one sign in every seed and its mean exceeds both the spread (its standard
deviation over the seeds) and twice the sampling error. The sampling error is sqrt(p(1 − p)/N + q(1 − q)/N),
with N tokens for ABX and N characters for CER, and 0 for PNMI, which is not a share of independent trials.

**Verdicts.**

1. "A is better than B" is shown if at least one of the three differences counts in its favour and none
   against it, contradicted if at least one counts against it and none in its favour, and not shown otherwise.
2. MT4SSL's claim, "both kinds of targets together are better than each alone", is shown if "both are better
   than labels alone" and "both are better than the teacher alone" are shown, contradicted if either is
   contradicted, and not shown otherwise.
3. "PNMI is 0.05 or more above that of MFCC-CMN" is shown for a kind of runs if it holds in every seed,
   contradicted if it holds in none, and not shown otherwise.

With fewer than two seeds all verdicts are "not shown", because the spread is unknown.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.files import write_text
from fairseq_mtssl.report.findings import (
    CONTRADICTED,
    NOT_SHOWN,
    SHOWN,
    Finding,
    difference_counts,
    sampling_error,
)
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.paper_tables import mean_and_spread, to_markdown

KINDS = {
    "both": "MT4SSL: labels and teacher",
    "labels": "labels alone",
    "teacher": "teacher alone",
    "first": "first iteration: labels of MFCC-CMN and teacher",
    "untrained": "the same network, untrained",
    "log-mel": "log-mel filterbanks, normalised",
    "mfcc-cmn": "MFCC-CMN",
    "mfcc": "MFCC",
}
LARGER_IS_BETTER = {"pnmi": True, "abx_within": False, "abx_across": False}
GAIN = 0.05
REFERENCE = "mfcc-cmn"


@dataclass(frozen=True)
class Record:
    """The record of one finished run.

    kind: of KINDS. layers: layer -> measure -> split (`valid`, `test`) -> value; features without layers have
    the layer "-". counts: split -> tokens of ABX. ctc: cer and wer in percent, words and characters on the
    test speakers; empty without fine-tuning. health: of the last validation of the training.
    """

    kind: str
    seed: int
    layers: dict[str, dict[str, dict[str, float]]]
    counts: dict[str, int]
    ctc: dict[str, float] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}-seed{self.seed}"

    def layer(self, measure: str) -> str:
        """The layer that is best on the valid speakers, the first one on ties."""
        best = max if LARGER_IS_BETTER[measure] else min
        return best(self.layers, key=lambda layer: self.layers[layer][measure]["valid"])

    def score(self, measure: str) -> float:
        """The measure on the test speakers, at the layer that is best on the valid speakers."""
        return self.layers[self.layer(measure)][measure]["test"]


def write_record(folder: Path, record: Record) -> None:
    """Write `{kind}-seed{seed}.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
    write_text(folder / f"{record.name}.json", text + "\n")


def read_records(folder: Path) -> list[Record]:
    """The records in a folder, in the order of KINDS and seeds. Raises: ConfigError if there is none."""
    records = []
    for path in sorted(folder.glob("*-seed*.json")):
        try:
            records.append(Record(**json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise ConfigError(str(path), [f"is no record of a run ({error}); remove it"]) from error
    if not records:
        raise ConfigError("--from-results", [f"{folder} holds no {{kind}}-seed{{seed}}.json"])
    kinds = list(KINDS)
    return sorted(records, key=lambda record: (kinds.index(record.kind), record.seed))


def scores_by_layer(
    pnmi: Mapping[str, Mapping[str, Any]], abx: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, int]]:
    """The layers and the counts of a record.

    pnmi: layer -> JSON of `mtssl measure-targets`. abx: split -> JSON of `mtssl evaluate-abx`, which for
    features without layers has a single row.
    """
    layers: dict[str, dict[str, dict[str, float]]] = {}
    for layer, quality in pnmi.items():
        scores = {
            split: content["scores"].get(layer) or next(iter(content["scores"].values()))
            for split, content in abx.items()
        }
        layers[layer] = {
            "pnmi": {split: round(quality["splits"][split]["pnmi"], 6) for split in abx},
            "abx_within": {split: scores[split]["within"] for split in abx},
            "abx_across": {split: scores[split]["across"] for split in abx},
        }
    return layers, {split: content["tokens"] for split, content in abx.items()}


def error_rates(transcripts: Mapping[str, Any] | None) -> dict[str, float]:
    """The field ctc of a record. transcripts: JSON of `mtssl transcribe`."""
    if transcripts is None:
        return {}
    return {name: transcripts[name] for name in ("cer", "wer", "words", "characters")}


def abx_error(record: Record) -> float:
    """The mean of the errors within and across speakers, in percent."""
    return statistics.mean((record.score("abx_within"), record.score("abx_across")))


COLUMNS: dict[str, tuple[str, int, Callable[[Record], float | None]]] = {
    "pnmi": ("PNMI", 3, lambda record: record.score("pnmi")),
    "abx_within": ("ABX within", 1, lambda record: record.score("abx_within")),
    "abx_across": ("ABX across", 1, lambda record: record.score("abx_across")),
    "cer": ("CER", 1, lambda record: record.ctc.get("cer")),
    "wer": ("WER", 1, lambda record: record.ctc.get("wer")),
}


def by_kind(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by kind, in the order of KINDS."""
    found = {kind: [record for record in records if record.kind == kind] for kind in KINDS}
    return {kind: some for kind, some in found.items() if some}


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The content of results.json: for each kind the measures by seed, means and standard deviations."""
    kinds: dict[str, Any] = {}
    for kind, some in by_kind(records).items():
        row: dict[str, Any] = {"name": KINDS[kind], "seeds": [record.seed for record in some]}
        for measure, (_, _, read) in COLUMNS.items():
            values = [value for record in some if (value := read(record)) is not None]
            if values:
                row[measure] = {
                    "values": values,
                    "mean": statistics.mean(values),
                    "deviation": statistics.stdev(values) if len(values) > 1 else None,
                }
        row["layers"] = {measure: [record.layer(measure) for record in some] for measure in LARGER_IS_BETTER}
        kinds[kind] = row
    return {"kinds": kinds, "findings": [asdict(finding) for finding in judge(records)]}


def markdown(records: Sequence[Record]) -> str:
    """The table with the chosen layers, and the verdicts."""
    header = ["", "seeds", *(title for title, _, _ in COLUMNS.values()), "layers (PNMI, within, across)"]
    rows = []
    for row in summarise(records)["kinds"].values():
        cells = [
            mean_and_spread(row[measure]["values"], places) if measure in row else ""
            for measure, (_, places, _) in COLUMNS.items()
        ]
        layers = ", ".join("/".join(dict.fromkeys(row["layers"][name])) for name in LARGER_IS_BETTER)
        rows.append([row["name"], ", ".join(map(str, row["seeds"])), *cells, layers])
    verdicts = [f"- **{each.verdict}**: {each.claim}. {each.numbers}.\n" for each in judge(records)]
    return "\n".join([to_markdown(Table(header, rows), numbers=False), "".join(verdicts)])


def judge(records: Sequence[Record]) -> list[Finding]:
    """The findings, by the rules above."""
    kinds = by_kind(records)
    parts = [better(kinds, "both", other) for other in ("labels", "teacher")]
    verdicts = [part.verdict for part in parts]
    verdict = SHOWN if verdicts == [SHOWN, SHOWN] else NOT_SHOWN
    verdict = CONTRADICTED if CONTRADICTED in verdicts else verdict
    claim = "both kinds of targets together are better than each alone"
    numbers = "; ".join(f"{part.claim}: {part.verdict}" for part in parts)
    gains = [gain(kinds, kind) for kind in ("both", "labels", "teacher")]
    return [Finding(claim, verdict, numbers), *parts, *gains]


def better(kinds: Mapping[str, Sequence[Record]], one: str, other: str) -> Finding:
    """Rule 1. one, other: kinds."""
    claim = f"{KINDS[one]} is better than {KINDS[other]}"
    pairs = _pairs(kinds, one, other)
    if len(pairs) < 2:
        return Finding(claim, NOT_SHOWN, f"not measured: {len(pairs)} seeds have both")
    texts, signs = [], set()
    for title, places, differences, error in _differences(pairs):
        mean, spread = statistics.mean(differences), statistics.stdev(differences)
        counts = difference_counts(differences, error)
        signs |= {mean > 0} if counts else set()
        texts.append(
            f"{title} better by {mean:+.{places}f} (spread {spread:.{places}f}, twice the sampling error "
            f"{2 * error:.{places}f}): {'counts' if counts else 'does not count'}"
        )
    verdict = NOT_SHOWN if len(signs) != 1 else SHOWN if signs == {True} else CONTRADICTED
    return Finding(claim, verdict, f"{'; '.join(texts)}; {len(pairs)} seeds")


def _pairs(kinds: Mapping[str, Sequence[Record]], one: str, other: str) -> list[tuple[Record, Record]]:
    theirs = {record.seed: record for record in kinds.get(other, ())}
    return [(record, theirs[record.seed]) for record in kinds.get(one, ()) if record.seed in theirs]


def _differences(pairs: Sequence[tuple[Record, Record]]) -> list[tuple[str, int, list[float], float]]:
    """Title, decimal places, differences by seed (positive: the first is better), error of each measure."""
    first = pairs[0][0]
    found = [
        ("PNMI", 3, [one.score("pnmi") - other.score("pnmi") for one, other in pairs], 0.0),
        _smaller("ABX error", [[abx_error(each) for each in pair] for pair in pairs], first.counts["test"]),
    ]
    if all(record.ctc for pair in pairs for record in pair):
        rates = [[record.ctc["cer"] for record in pair] for pair in pairs]
        found.append(_smaller("CER", rates, int(first.ctc["characters"])))
    return found


def _smaller(title: str, pairs: Sequence[Sequence[float]], count: int) -> tuple[str, int, list[float], float]:
    """The same for a measure in percent of which smaller values are better."""
    means = [min(100.0, statistics.mean(side)) for side in zip(*pairs, strict=True)]
    return title, 1, [other - one for one, other in pairs], sampling_error(means, [count, count])


def gain(kinds: Mapping[str, Sequence[Record]], kind: str) -> Finding:
    """Rule 3."""
    claim = f"{KINDS[kind]}: PNMI is {GAIN} or more above that of {KINDS[REFERENCE]}"
    runs, reference = kinds.get(kind, ()), kinds.get(REFERENCE, ())
    if len(runs) < 2 or not reference:
        return Finding(claim, NOT_SHOWN, f"not measured: {len(runs)} runs, {len(reference)} references")
    gains = [record.score("pnmi") - reference[0].score("pnmi") for record in runs]
    reached = [each >= GAIN for each in gains]
    verdict = SHOWN if all(reached) else NOT_SHOWN if any(reached) else CONTRADICTED
    return Finding(claim, verdict, "gains " + ", ".join(f"{each:+.3f}" for each in gains))
