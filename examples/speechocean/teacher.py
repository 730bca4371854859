"""Short pre-trainings that differ in one setting of the EMA teacher, measured on the valid speakers.

    python examples/speechocean/teacher.py --speech DIR --more DIR --out runs/speechocean

All have seed 11, which run.py does not report. Trials with the teacher alone show the use of its targets
alone; trials with both kinds of targets, on labels of MFCC-CMN, show what the teacher adds. The measures are

- PNMI on the valid speakers of 100 clusters of each layer, fitted on the train speakers;
- the variance of the targets, and the share of it that the student predicts at masked frames. Targets are
  means of K layers of variance 1, hence their variance lies between 1/K (unrelated layers) and 1;
- acc_on: how often the target nearest to a prediction, among those of the clip, is that of its own frame.

A second call does only what is not done yet; --record DIR writes a small JSON file of each trial.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, Stage, run_example
from examples.speechocean import run
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.report.paper_tables import to_markdown

SEED, PASSES = 11, 4.0


@dataclass(frozen=True)
class Trial:
    """A pre-training. kind: of run.TARGETS; settings: besides START; passes: over the speech."""

    kind: str
    settings: tuple[str, ...] = ()
    passes: float = PASSES


# the values of the recipe, from which the trials started, before run.TARGETS was chosen
START = ("model.ema_decay=0.99", "model.ema_end_decay=0.999", "criterion.unmasked_weight=1")
LONG = 10.0
TRIALS = {
    "teacher": Trial("teacher"),
    "decay 0.999 to 0.9999": Trial("teacher", run.SLOW),
    "decay 0.99": Trial("teacher", ("model.ema_end_decay=0.99",)),
    "K 1": Trial("teacher", ("model.average_top_k_layers=1",)),
    "K 4": Trial("teacher", ("model.average_top_k_layers=4",)),
    "learning rate 0.0005": Trial("teacher", ("optimization.lr=[0.0005]",)),
    "learning rate 0.002": Trial("teacher", ("optimization.lr=[0.002]",)),
    "mask 0.65 of 5": Trial("teacher", ("model.mask_prob=0.65", "model.mask_length=5")),
    "batch 15 s": Trial("teacher", ("dataset.max_tokens=240000",)),
    "labels": Trial("labels"),
    "both": Trial("both"),
    "both, weight 0.3": Trial("both", ("criterion.online_weight=0.3",)),
    "both, weight 0.1": Trial("both", ("criterion.online_weight=0.1",)),
    "both, weight 0.1, K 4": Trial("both", ("criterion.online_weight=0.1", "model.average_top_k_layers=4")),
    "teacher slow 10 passes": Trial("teacher", run.SLOW, LONG),
    "both slow 10 passes": Trial("both", run.SLOW, LONG),
    "both 30 passes": Trial("both", (), 30.0),
    "labels masked only 10 passes": Trial("labels", run.MASKED, LONG),
    "both masked only 10 passes": Trial("both", (*run.SLOW, *run.MASKED), LONG),
    "both masked only mask 0.65 of 5 10 passes": Trial(
        "both", (*run.SLOW, *run.MASKED, "model.mask_prob=0.65", "model.mask_length=5"), LONG
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Run every trial that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    if args.from_results is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        files = {trial: args.from_results / f"{folder_name(trial)}.json" for trial in TRIALS}
        report({trial: results.read_json(path) for trial, path in files.items() if path.is_file()}, args)
        return
    pipeline = Pipeline(args.out, args.fresh)
    run.prepare(pipeline, args)
    experiment = run.Experiment(pipeline, args)
    labels = experiment.labels("mfcc-cmn", "mfcc-cmn", ("pretrain", "valid"), "pretrain")
    pipeline.run(labels)
    found: dict[str, dict[str, Any]] = {}
    for trial in args.only:
        args.passes = args.passes_of_all or TRIALS[trial].passes
        found[trial] = measured(pipeline, experiment, trial, labels)
        if args.record is not None:
            args.record.mkdir(parents=True, exist_ok=True)
            results.write_json(args.record / f"{folder_name(trial)}.json", found[trial])
    report(found, args)


def report(found: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Write and print the table of the trials."""
    text = markdown(found)
    (args.out / "teacher.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{args.out / 'teacher.md'}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Raises: ConfigError."""
    parser = stages.example_parser(__doc__, "runs/speechocean", "for every trial")
    parser.add_argument("--speech", type=Path, help="folder of speechocean")
    parser.add_argument("--more", type=Path, help="folder of speechocean-more")
    parser.add_argument(
        "--passes", type=float, dest="passes_of_all", metavar="N", help="of every trial (its own number)"
    )
    parser.add_argument("--from-results", type=Path, metavar="DIR", help="only make the table of these JSONs")
    parser.add_argument("--only", metavar="T;…", help="only these trials, separated by semicolons (all)")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="write a small JSON file of each trial here"
    )
    args = parser.parse_intermixed_args(argv)
    if args.from_results is None and (args.speech is None or args.more is None):
        raise ConfigError("teacher", ["give --speech and --more, or --from-results"])
    args.only = [word.strip() for word in args.only.split(";")] if args.only else list(TRIALS)
    unknown = [word for word in args.only if word not in TRIALS]
    if unknown:
        raise ConfigError("--only", [f"got {'; '.join(unknown)}, wanted some of {'; '.join(TRIALS)}"])
    return args


def folder_name(trial: str) -> str:
    """The folder of a trial, such as `trial-K-1`, without characters that a shell or Hydra interprets."""
    return "trial-" + trial.replace(",", "").replace(" ", "-")


def measured(pipeline: Pipeline, experiment: run.Experiment, trial: str, labels: Stage) -> dict[str, Any]:
    """Train one trial and cluster its layers. Returns: its record."""
    kind, name = TRIALS[trial].kind, folder_name(trial)
    settings = (*START, *TRIALS[trial].settings)
    stage = experiment.training(kind, SEED, None if kind == "teacher" else labels, name, settings)
    pipeline.run(stage)
    pnmi: dict[str, float] = {}
    for layer, features in run.trained(kind, SEED, stage).layers.items():
        clusters = experiment.labels(f"{name}-{layer}", features, ("train", "valid"), "train", (stage.name,))
        quality = experiment.quality(name, layer, clusters, ("valid",))
        pipeline.run(clusters)
        pipeline.run(quality)
        content = results.read_json(quality.products[0])
        pnmi[layer] = round(content["splits"]["valid"]["pnmi"], 6)
    return {
        "trial": trial,
        "kind": kind,
        "settings": [word for word in stage.command if run.is_setting(word, experiment.out)],
        "pnmi_valid": pnmi,
        "health": run.health_of(stage.folder),
        "dim": run.setting(stage, "model.encoder_embed_dim"),
        "seconds": pipeline.seconds[stage.name],
    }


def explained(health: Mapping[str, float], dim: int) -> float | None:
    """The share of the targets' variance that is predicted; loss_on is √D times the mean squared error."""
    if not health.get("target_var"):
        return None
    return 1 - health["loss_on"] / math.sqrt(dim) / health["target_var"]


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each trial, with the PNMI of the best layer in bold."""
    layers = list(dict.fromkeys(layer for row in found.values() for layer in row["pnmi_valid"]))
    header = ["trial", *(f"PNMI, layer {layer}" for layer in layers), "target variance", "predicted"]
    rows = []
    for trial, row in found.items():
        pnmi, health = row["pnmi_valid"], row["health"]
        best = max(pnmi.values())
        cells = [cell(pnmi.get(layer), 3, pnmi.get(layer) == best) for layer in layers]
        share = explained(health, row["dim"])
        numbers = [(health.get("target_var"), 2), (share, 2)]
        numbers += [(health.get(name), 1) for name in ("acc_on", "acc_off")]
        rows.append([trial, *cells, *(cell(value, places) for value, places in numbers)])
    return to_markdown(Table([*header, "acc_on", "acc_off"], rows), numbers=False)


def cell(value: float | None, places: int, bold: bool = False) -> str:
    """A number, in bold if asked; nothing for None."""
    text = "" if value is None else f"{value:.{places}f}"
    return f"**{text}**" if bold else text


if __name__ == "__main__":
    sys.exit(run_example(main))
