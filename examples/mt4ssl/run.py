"""MT4SSL from waveforms to text: labels, pre-training, labels of its layers, CTC fine-tuning, decoding.

    make demo-mt4ssl           or      python examples/mt4ssl/run.py --out runs/mt4ssl

The output folder gets results.json, curves.png, curves_ctc.png, index.html, labels and runs. With --data DIR
your own speech is used: train, valid and test manifests, {split}.phones.tsv and transcripts.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, Stage, run_example
from fairseq_mtssl.report.page import Table

PRETRAINING, FINETUNING = "mt4ssl_small", "ctc_small"
LAYERS = (1, 2, 3, 4)
MEASURED = "valid"  # labels are compared on a split that the model was not trained on


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    out, data = args.out, args.data or args.out / "data"
    pipeline = Pipeline(out, args.fresh)
    if args.data is None:
        pipeline.run(stages.manifest_stage("scenes", data))
    first = stages.labels_stage("mfcc", "mfcc", args.clusters, data, out)
    pipeline.run(first)
    updates = f"optimization.max_update={args.updates}"
    labels = f"task.labels=[{stages.hydra_value(str(first.folder))}]"
    pretrained = stages.training_stage(
        "mt4ssl", PRETRAINING, data, out, [labels, *args.overrides, updates], needs=("data", "labels mfcc")
    )
    pipeline.run(pretrained)
    checkpoint = pretrained.products[0]
    sources = {"mfcc": "mfcc", **{f"layer{layer}": f"{checkpoint}:{layer}" for layer in LAYERS}}
    measured = {}
    for name, features in sources.items():
        stage = measured_labels(name, features, args.clusters, data, out)
        pipeline.run(stage)
        product = out / "evaluation" / stage.folder.name / "quality.json"
        measure = stages.quality_stage(f"measure {stage.folder.name}", stage, data, MEASURED, product)
        pipeline.run(measure)
        measured[name] = results.read_json(measure.products[0])["splits"][MEASURED]

    options = ["--units", "letters"]
    pipeline.run(stages.text_stage(data, out, [data / "dict.ltr.txt"], options, "data"))
    updates = f"optimization.max_update={args.ctc_updates}"
    settings = [f"model.pretrained={stages.hydra_value(str(checkpoint))}", updates]
    tuned, scratch = (
        stages.training_stage(
            name, FINETUNING, data, out, [*settings, *more], needs=("data", "mt4ssl", "text")
        )
        for name, more in (("ctc_pretrained", []), ("ctc_scratch", ["model.no_pretrained_weights=true"]))
    )
    pipeline.run(tuned, scratch)
    transcripts = {}
    for name, run in (("MT4SSL, fine-tuned", tuned), ("from scratch", scratch)):
        product = out / "evaluation" / run.name / "transcripts.json"
        stage = stages.transcripts_stage(f"transcribe {run.name}", run, data, product)
        pipeline.run(stage)
        transcripts[name] = results.read_json(stage.products[0])
    for picture, runs in (
        ("curves", {"MT4SSL": pretrained}),
        ("curves_ctc", dict(zip(transcripts, (tuned, scratch)))),
    ):
        pipeline.run(stages.curves_stage(runs, [], out / f"{picture}.png", out / picture))
    report(args, pipeline, measured, transcripts, {"mt4ssl": pretrained, "ctc": tuned})


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/mt4ssl", "for the pre-training")
    parser.add_argument("--data", type=Path, help="data folder; by default the embedded corpus is made")
    parser.add_argument("--clusters", type=int, default=100, metavar="K", help="number of clusters (100)")
    parser.add_argument(
        "--updates", type=int, default=1200, metavar="N", help="updates of pre-training (1200)"
    )
    parser.add_argument(
        "--ctc-updates", type=int, default=250, metavar="N", help="updates of each fine-tuning (250)"
    )
    return parser.parse_intermixed_args(argv)


def measured_labels(name: str, features: str, clusters: int, data: Path, out: Path) -> Stage:
    """Labels of the measured split only, on which their clusters are learned too."""
    needs = ("data", "mt4ssl")
    stage = stages.labels_stage(f"{MEASURED}_{name}", features, clusters, data, out, needs=needs)
    # at the end of the command, whose words decide whether a stage is done
    return replace(stage, command=[*stage.command, "--splits", MEASURED, "--fit-split", MEASURED])


def report(
    args: argparse.Namespace,
    pipeline: Pipeline,
    measured: dict[str, Any],
    transcripts: dict[str, Any],
    runs: dict[str, Stage],
) -> None:
    """Write results.json and the page; print the tables."""
    out = args.out
    names = {"phone_purity": "phone purity", "cluster_purity": "cluster purity", "pnmi": "PNMI"}
    quality = Table(
        ["labels", *names.values()],
        [[name, *(f"{row[key]:.3f}" for key in names)] for name, row in measured.items()],
    )
    rates = Table(
        ["network", "WER", "CER"],
        [[name, f"{row['wer']:.1f}", f"{row['cer']:.1f}"] for name, row in transcripts.items()],
    )
    content = {
        "targets": measured,
        "transcripts": {
            name: {key: row[key] for key in ("utterances", "wer", "cer")} for name, row in transcripts.items()
        },
        "updates": args.updates,
        "ctc_updates": args.ctc_updates,
        "checkpoint": str(runs["mt4ssl"].products[0]),
        "checkpoint_ctc": str(runs["ctc"].products[0]),
        **results.how_made(pipeline),
    }
    results.write_json(out / "results.json", content)
    texts = {
        "Labels against phones": f"{args.clusters} clusters of MFCCs and of each layer of the model, learned "
        f"and measured on the split {MEASURED}; PNMI is the share of the phones' entropy that they explain.",
        "Spelling": f"Split test, greedy decoding, percent; both networks were fine-tuned with CTC for "
        f"{args.ctc_updates} updates, one of them from {args.updates} updates of MT4SSL.",
    }
    tables = dict(zip(texts, (quality, rates), strict=True))
    page = results.write_report(
        "MT4SSL: cluster labels and an EMA teacher",
        content,
        [(name, text, tables[name]) for name, text in texts.items()],
        {"Pre-training": out / "curves.png", "Fine-tuning": out / "curves_ctc.png"},
        {name: run.folder / ".hydra" / "config.yaml" for name, run in runs.items()},
        out / "index.html",
    )
    for name, text in texts.items():
        print(f"\n{name}. {text}\n")
        results.print_table(tables[name])
    print(f"\n{out / 'results.json'}, {out / 'curves.png'}; all in one page: {page}")


if __name__ == "__main__":
    sys.exit(run_example(main))
