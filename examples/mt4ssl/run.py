"""MT4SSL from waveforms to text: labels, pre-training, labels of its layers, CTC fine-tuning, decoding.

    make demo-mt4ssl           or      python examples/mt4ssl/run.py --out runs/mt4ssl

Leaves in the output folder results.json, curves.png, curves_ctc.png, index.html, labels and runs. On
speech of one's own: --data DIR with train, valid and test manifests, {split}.phones.tsv and transcripts.
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
MEASURED = "valid"  # codebooks are compared on a split that the model was not trained on


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
        measure = measurement_stage(stage, data, out)
        pipeline.run(measure)
        measured[name] = results.read_json(measure.products[0])["splits"][MEASURED]

    pipeline.run(text_stage(data, out))
    updates = f"optimization.max_update={args.ctc_updates}"
    settings = [f"model.pretrained={stages.hydra_value(str(checkpoint))}", updates]
    tuned, scratch = (
        stages.training_stage(
            name, FINETUNING, data, out, [*settings, *more], needs=("data", "mt4ssl", "text")
        )
        for name, more in (("ctc_pretrained", []), ("ctc_scratch", ["model.no_pretrained_weights=true"]))
    )
    pipeline.run(tuned, scratch)
    spelt = {}
    for name, run in (("MT4SSL, fine-tuned", tuned), ("from scratch", scratch)):
        stage = decoding_stage(run, data, out)
        pipeline.run(stage)
        spelt[name] = results.read_json(stage.products[0])
    for picture, runs in (
        ("curves", {"MT4SSL": pretrained}),
        ("curves_ctc", dict(zip(spelt, (tuned, scratch)))),
    ):
        pipeline.run(stages.curves_stage(runs, [], out / f"{picture}.png", out / picture))
    report(args, pipeline, measured, spelt, {"mt4ssl": pretrained, "ctc": tuned})


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/mt4ssl", "for the pre-training")
    parser.add_argument("--data", type=Path, help="data folder; by default the embedded corpus is made")
    parser.add_argument("--clusters", type=int, default=100, metavar="K", help="labels of a codebook (100)")
    parser.add_argument("--updates", type=int, default=1200, metavar="N", help="of pre-training (1200)")
    parser.add_argument("--ctc-updates", type=int, default=250, metavar="N", help="of each fine-tuning (250)")
    return parser.parse_intermixed_args(argv)


def measured_labels(name: str, features: str, clusters: int, data: Path, out: Path) -> Stage:
    """Labels of the measured split and no other; their codebook is learned on that split, too."""
    needs = ("data", "mt4ssl")
    stage = stages.labels_stage(f"{MEASURED}_{name}", features, clusters, data, out, needs=needs)
    # at the end of the command: a finished stage is known by its words
    return replace(stage, command=[*stage.command, "--splits", MEASURED, "--fit-split", MEASURED])


def measurement_stage(labels: Stage, data: Path, out: Path) -> Stage:
    """`mtssl measure-targets` of a label folder."""
    folder = out / "evaluation" / labels.folder.name
    command = ["mtssl", "measure-targets", "--labels", str(labels.folder), "--data", str(data)]
    command += ["--splits", MEASURED, "--json", str(folder / "quality.json")]
    return Stage(
        f"measure {labels.folder.name}", command, folder, [folder / "quality.json"], needs=(labels.name,)
    )


def text_stage(data: Path, out: Path) -> Stage:
    """`mtssl prepare-text`: transcripts in letters beside the manifests."""
    command = ["mtssl", "prepare-text", "--data", str(data), "--units", "letters"]
    # the folder is empty: what is written lies among the data
    return Stage("text", command, out / "text", [data / "dict.ltr.txt"], needs=("data",))


def decoding_stage(run: Stage, data: Path, out: Path) -> Stage:
    """`mtssl transcribe` of the test split, greedily."""
    folder = out / "evaluation" / run.name
    command = ["mtssl", "transcribe", "--checkpoint", str(run.products[0]), "--data", str(data)]
    command += ["--split", "test", "--json", str(folder / "transcripts.json")]
    return Stage(f"transcribe {run.name}", command, folder, [folder / "transcripts.json"], needs=(run.name,))


def report(
    args: argparse.Namespace,
    pipeline: Pipeline,
    measured: dict[str, Any],
    spelt: dict[str, Any],
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
        [[name, f"{row['wer']:.1f}", f"{row['cer']:.1f}"] for name, row in spelt.items()],
    )
    content = {
        "targets": measured,
        "transcripts": {
            name: {key: row[key] for key in ("utterances", "wer", "cer")} for name, row in spelt.items()
        },
        "updates": args.updates,
        "ctc_updates": args.ctc_updates,
        "seconds": pipeline.total_seconds(),
        "checkpoint": str(runs["mt4ssl"].products[0]),
        "checkpoint_ctc": str(runs["ctc"].products[0]),
        "commands": pipeline.commands,
        "versions": results.versions(),
    }
    results.write_json(out / "results.json", content)
    texts = {
        "Labels against phones": f"{args.clusters} clusters of MFCCs and of each layer of the model, learned "
        f"and measured on the split {MEASURED}; PNMI is the share of the phones' entropy that they tell.",
        "Spelling": f"Split test, greedy decoding, percent; both networks were fine-tuned with CTC for "
        f"{args.ctc_updates} updates, one of them from {args.updates} updates of MT4SSL.",
    }
    tables = dict(zip(texts, (quality, rates), strict=True))
    page = results.write_report(
        "MT4SSL: cluster labels and a EMA teacher",
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
