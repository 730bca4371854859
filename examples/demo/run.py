"""Trains and evaluates (W2V2, VGS) and VGS alone on the embedded corpus.

    make demo                  or      python examples/demo/run.py --out runs/demo

VGS alone is trained twice: with as many updates as the sequence has of VGS, and with as many as it has in
all. The output folder gets results.json, curves.png, gallery.png, index.html, the corpus and the three runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, run_example
from examples.training_bar import phases_run
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.report.findings import BOUND, sampling_error
from fairseq_mtssl.report.run_sections import health_section

SEQUENTIAL, VGS_ONLY = "joint_sequential_small", "vgs_small"
SEQUENCE, EQUAL_VGS, EQUAL_TOTAL = "(W2V2, VGS)", "VGS, equal VGS updates", "VGS, equal total updates"
FOLDERS = {SEQUENCE: SEQUENTIAL, EQUAL_VGS: f"{VGS_ONLY}_equal_vgs", EQUAL_TOTAL: VGS_ONLY}


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    out, data = args.out, args.out / "data"
    pipeline = Pipeline(out, args.fresh)
    pipeline.run(stages.manifest_stage("scenes", data))

    total = args.ssl_updates + args.vgs_updates
    lengths = f"task.lengths=[{args.ssl_updates} updates,rest]"
    settings = {
        SEQUENCE: (SEQUENTIAL, [lengths, f"optimization.max_update={total}"]),
        EQUAL_TOTAL: (VGS_ONLY, [f"optimization.max_update={total}"]),
        EQUAL_VGS: (VGS_ONLY, [f"optimization.max_update={args.vgs_updates}"]),
    }
    common = [f"common.seed={args.seed}", *args.overrides]
    runs = {
        name: stages.training_stage(FOLDERS[name], recipe, data, out, [*common, *own])
        for name, (recipe, own) in settings.items()
    }
    # on two cores, three trainings of one thread each at the same time end sooner than two and then one
    pipeline.run(*runs.values(), at_once=len(runs))
    phases = phases_run(runs[SEQUENCE].folder / "hydra_train.log")

    evaluations = {
        name: stages.retrieval_stage(
            run, data, out, "image", out / "gallery.png" if name == SEQUENCE else None
        )
        for name, run in runs.items()
    }
    pipeline.run(*evaluations.values(), at_once=usable_cores())
    pipeline.run(stages.curves_stage(runs, phases, out / "curves.png", out / "curves"))

    scores = {name: results.read_json(stage.products[0]) for name, stage in evaluations.items()}
    health = {name: results.run_health(run.folder) for name, run in runs.items()}
    content = {
        "retrieval": scores[SEQUENCE],
        "retrieval_vgs_only": scores[EQUAL_VGS],
        "retrieval_vgs_equal_total": scores[EQUAL_TOTAL],
        "schedule": phases,
        "vgs_only_updates": args.vgs_updates,
        "pretraining": pretraining_sentence(scores),
        "health": {name: [phase.to_json() for phase in judged] for name, judged in health.items()},
        "seed": args.seed,
        "checkpoint": str(runs[SEQUENCE].products[0]),
        "checkpoint_vgs_only": str(runs[EQUAL_VGS].products[0]),
        **results.how_made(pipeline),
    }
    results.write_json(out / "results.json", content)
    table = results.retrieval_table(scores)
    texts = [
        content["pretraining"],
        results.measured_on(scores[SEQUENCE]),
        f"(W2V2, VGS): {results.schedule_line(phases)}. VGS alone: {args.vgs_updates} and {total} updates.",
        "Every image shows a colour–shape combination, and every caption a voice, never trained on.",
    ]
    page = results.write_report(
        "Images from speech: self-supervised pre-training, then visual grounding",
        content,
        [("Retrieval", " ".join(texts), table)],
        {"Captions and their five best images": out / "gallery.png", "Losses": out / "curves.png"},
        {name: run.folder / ".hydra" / "config.yaml" for name, run in runs.items()},
        out / "index.html",
        [health_section(health)],
    )
    print("\n" + "\n".join(texts) + "\n")
    results.print_table(table)
    print()
    for name, judged in health.items():
        print("\n".join(f"{name}: {phase.sentence}" for phase in judged))
    print(f"\n{out / 'results.json'}, {out / 'curves.png'}, {out / 'gallery.png'}; all in one page: {page}")
    print(f"Ask it with a recording of yours:  mtssl retrieve --checkpoint {runs[SEQUENCE].products[0]} \\")
    print(f"    --images {data / 'images'} --query my_recording.wav")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/demo")
    add = parser.add_argument
    # 2/7 and 5/7 of the updates, as the paper's 20 and 50 epochs
    add("--ssl-updates", type=int, default=430, metavar="N", help="updates of SSL, before VGS (430)")
    add(
        "--vgs-updates", type=int, default=1075, metavar="N", help="updates of VGS, after SSL or alone (1075)"
    )
    add("--seed", type=int, default=1, metavar="S", help="seed of all runs (1)")
    return parser.parse_intermixed_args(argv)


def pretraining_sentence(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the effect of pre-training in this run, by R@10, the mean of both directions.

    A difference counts if it exceeds twice the standard error of sampling, as in `report.findings`.
    """
    recall = {name: results.mean_recall(each, "r10") for name, each in scores.items()}
    captions = [int(scores[SEQUENCE]["captions"])] * 2
    parts = []
    for name, meant in ((EQUAL_VGS, "as many VGS updates"), (EQUAL_TOTAL, "as many updates in all")):
        difference = recall[SEQUENCE] - recall[name]
        bound = BOUND * sampling_error([recall[SEQUENCE], recall[name]], captions)
        beside = f"VGS alone with {meant} ({recall[name]:.1f} %)"
        if abs(difference) <= bound:
            parts.append(f"not distinguishable from {beside}, since sampling explains ± {bound:.1f} points")
        else:
            where = "above" if difference > 0 else "below"
            parts.append(f"{abs(difference):.1f} points {where} {beside}")
    return (
        f"What pre-training gave, in one seed: R@10 is {recall[SEQUENCE]:.1f} % with it, "
        f"{parts[0]}, and {parts[1]}."
    )


if __name__ == "__main__":
    sys.exit(run_example(main))
