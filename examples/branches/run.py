"""Self-supervised branches on speech alone: the same encoder trained with each, ABX of every layer.

    make speech-branches [SEEDS=1,2,3] [OUT=runs/branches]

Trains wav2vec 2.0, HuBERT, data2vec, MT4SSL and BEST-RQ on the captions of the embedded corpus, all for the
same number of updates, and measures every layer of each on the test split, beside the untrained encoder and
log-mel filterbanks. Leaves table.md and results.json in the output folder. --record DIR keeps a small JSON of
each model, and --from-results DIR makes the table of those again without any training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, Stage, run_example
from examples.variants import BRANCH_TITLES, seeds_of
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.paper_tables import to_markdown

CLUSTERS, UPDATES = 100, 1500
RECIPE = "mt4ssl_fbank_small"
BRANCHES = {"wav2vec2": "wav2vec 2.0", **BRANCH_TITLES, "best_rq": "BEST-RQ"}
LABELLED = ("hubert", "mt4ssl")
"""The branches that predict cluster labels, here of MFCCs with their mean taken off."""
LOG_MEL, UNTRAINED = "log-mel filterbanks", "untrained encoder"


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet, then write the table. Raises: MtsslError."""
    args = parse(argv)
    if args.from_results:
        args.out.mkdir(parents=True, exist_ok=True)
        kept = [path for folder in args.from_results for path in sorted(folder.glob("*.json"))]
        report([results.read_json(path) for path in kept], args.out)
        return
    pipeline, data = Pipeline(args.out, args.fresh), args.out / "data"
    pipeline.run(stages.manifest_stage("scenes", data), stages.items_stage(data, "test", args.out))
    labels = stages.labels_stage("mfcc-cmn", "mfcc-cmn", CLUSTERS, data, args.out)
    pipeline.run(labels)
    runs = {(name, seed): training(args, name, seed, labels) for seed in args.seeds for name in BRANCHES}
    pipeline.run(*runs.values(), at_once=args.at_once)
    measured: dict[tuple[str, int], Stage] = {}
    for (name, seed), run in runs.items():
        measured[name, seed] = stages.abx_stage(
            run, run.products[0], args.updates, data / "test.item", data, ("--split", "test")
        )
    first = runs["wav2vec2", args.seeds[0]]
    for seed in args.seeds:
        options = ("--checkpoint", str(first.products[0]), "--random-weights", "--seed", str(seed))
        measured[UNTRAINED, seed] = baseline(f"untrained-seed{seed}", options, data, args.out, (first.name,))
    measured[LOG_MEL, 0] = baseline("log-mel", ("--features", "log-mel"), data, args.out)
    pipeline.run(*measured.values(), at_once=args.at_once)
    records = []
    for (name, seed), stage in measured.items():
        run_of = runs.get((name, seed))
        records.append(record(name, seed, run_of, results.read_json(stage.products[0]), args.updates))
        if args.record is not None:
            args.record.mkdir(parents=True, exist_ok=True)
            results.write_json(args.record / f"{stage.name.split()[1]}.json", records[-1])
    report(records, args.out, pipeline)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises: ConfigError."""
    parser = stages.example_parser(__doc__, "runs/branches", "for every training")
    parser.add_argument(
        "--updates", type=int, default=UPDATES, metavar="N", help=f"of each model ({UPDATES})"
    )
    stages.add_run_options(parser, "1", "make the table")
    args = parser.parse_intermixed_args(argv)
    args.seeds = seeds_of(args.seeds)
    return args


def training(args: argparse.Namespace, name: str, seed: int, labels: Stage) -> Stage:
    """Train a branch on speech alone. Its product is the last checkpoint."""
    recipe = "best_rq_small" if name == "best_rq" else RECIPE
    folder = f"[{stages.hydra_value(str(labels.folder))}]" if name in LABELLED else "[]"
    settings = [f"model.ssl={name}", f"task.labels={folder}", f"common.seed={seed}", *args.overrides]
    settings.append(f"optimization.max_update={args.updates}")
    needs = ("data", *([labels.name] if name in LABELLED else []))
    data, stem = args.out / "data", f"{name}-seed{seed}"
    return stages.training_stage(stem, recipe, data, args.out, settings, needs, "checkpoint_last.pt")


def baseline(name: str, source: Sequence[str], data: Path, out: Path, needs: Sequence[str] = ()) -> Stage:
    """`mtssl evaluate-abx` of frames that no training of this example gives."""
    command = ["mtssl", "evaluate-abx", *source, "--data", str(data), "--item", str(data / "test.item")]
    product = out / "evaluation" / name / "abx.json"
    return stages.json_stage(f"abx {name}", [*command, "--split", "test"], product, ("items", *needs))


def record(name: str, seed: int, run: Stage | None, abx: Mapping[str, Any], updates: int) -> dict[str, Any]:
    """What is kept of a model. run: its training, None of baselines."""
    health = [] if run is None else [phase.to_json() for phase in results.run_health(run.folder)]
    return {
        "name": name,
        "seed": seed,
        "updates": 0 if run is None else updates,
        "command": None if run is None else run.line,
        "abx": {layer: dict(scores) for layer, scores in abx["scores"].items()},
        "tokens": abx["tokens"],
        "health": health,
    }


def report(records: Sequence[Mapping[str, Any]], out: Path, pipeline: Pipeline | None = None) -> None:
    """Write table.md and results.json, print the table."""
    text = markdown(records)
    content: dict[str, Any] = {"models": list(records)}
    if pipeline is not None:
        content |= results.how_made(pipeline)
    results.write_json(out / "results.json", content)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{out / 'results.json'}, {out / 'table.md'}")


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model: ABX error within / across speakers of every layer, the lowest across in bold."""
    layers = sorted({layer for each in records for layer in each["abx"] if layer.isdecimal()}, key=int)
    titles = [LOG_MEL, UNTRAINED, *BRANCHES]
    rows = []
    for each in sorted(records, key=lambda each: (titles.index(each["name"]), each["seed"])):
        best = min(each["abx"], key=lambda layer: each["abx"][layer]["across"])
        scores = {layer: f"{row['within']:.1f} / {row['across']:.1f}" for layer, row in each["abx"].items()}
        scores[best] = f"**{scores[best]}**"
        # features without layers stand in the first column
        cells = [scores.get(layer, "") for layer in layers] if best in layers else [scores[best]]
        cells += [""] * (len(layers) - len(cells))
        rows.append([BRANCHES.get(each["name"], each["name"]), str(each["seed"] or ""), *cells])
    header = ["model", "seed", *(f"layer {layer}" for layer in layers)]
    return to_markdown(Table(header, rows), numbers=False)


if __name__ == "__main__":
    sys.exit(run_example(main))
