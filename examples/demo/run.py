"""The main job on the embedded corpus: (W2V2, VGS) beside VGS alone, both trained, evaluated and pictured.

    make demo                  or      python examples/demo/run.py --out runs/demo

Leaves in the output folder results.json, curves.png, gallery.png, index.html, the corpus and both runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, run_example
from examples.training_bar import phases_run
from fairseq_mtssl.report.run_sections import health_section

SEQUENTIAL, VGS_ONLY = "joint_sequential_small", "vgs_small"
# so few updates leave nothing to regularise: with masks VGS hardly starts in 400
OVERRIDES = ("model.vgs_mask_prob=0",)


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="do every stage anew")
    # shorter than the recipe, so that both runs together take minutes
    parser.add_argument("--ssl-updates", type=int, default=150, metavar="N", help="of SSL, before VGS (150)")
    parser.add_argument(
        "--vgs-updates", type=int, default=500, metavar="N", help="of VGS, in both runs (500)"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for fairseq-hydra-train")
    args = parser.parse_args(argv)
    out, data = args.out, args.out / "data"
    pipeline = Pipeline(out, args.fresh)
    pipeline.run(stages.manifest_stage("scenes", data))

    # VGS alone gets the updates that train VGS in the sequence, no more and no fewer
    lengths = [f"task.lengths=[{args.ssl_updates} updates,rest]"]
    updates = f"optimization.max_update={args.ssl_updates + args.vgs_updates}"
    sequential = stages.training_stage(
        SEQUENTIAL, SEQUENTIAL, data, out, [*OVERRIDES, *args.overrides, *lengths, updates]
    )
    updates = f"optimization.max_update={args.vgs_updates}"
    vgs_only = stages.training_stage(VGS_ONLY, VGS_ONLY, data, out, [*OVERRIDES, *args.overrides, updates])
    pipeline.run(sequential, vgs_only)
    phases = phases_run((sequential.folder / "hydra_train.log").read_text(encoding="utf-8"))

    evaluations = {
        "(W2V2, VGS)": stages.retrieval_stage(sequential, data, out, "image", out / "gallery.png"),
        "VGS": stages.retrieval_stage(vgs_only, data, out, "image"),
    }
    for stage in evaluations.values():
        pipeline.run(stage)
    runs = {"(W2V2, VGS)": sequential, "VGS": vgs_only}
    pipeline.run(stages.curves_stage(runs, phases, out / "curves.png", out / "curves"))

    scores = {name: results.read_json(stage.products[0]) for name, stage in evaluations.items()}
    health = {name: results.run_health(run.folder) for name, run in runs.items()}
    content = {
        "retrieval": scores["(W2V2, VGS)"],
        "retrieval_vgs_only": scores["VGS"],
        "schedule": phases,
        "vgs_only_updates": args.vgs_updates,
        "health": {name: [phase.to_json() for phase in phases] for name, phases in health.items()},
        "seconds": pipeline.total_seconds(),
        "checkpoint": str(sequential.products[0]),
        "checkpoint_vgs_only": str(vgs_only.products[0]),
        "commands": pipeline.commands,
        "versions": results.versions(),
    }
    results.write_json(out / "results.json", content)
    table = results.retrieval_table(scores)
    texts = [
        results.measured_on(scores["VGS"]),
        f"(W2V2, VGS): {results.schedule_line(phases)}. VGS: {args.vgs_updates} updates.",
        "Every image shows a colour–shape combination, and every caption a voice, never trained on.",
    ]
    page = results.write_report(
        "Images from speech: self-supervised pre-training, then visual grounding",
        content,
        [("Retrieval", " ".join(texts), table)],
        {"Losses": out / "curves.png", "Captions and their five best images": out / "gallery.png"},
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
    print(f"Ask it with a recording of yours:  mtssl retrieve --checkpoint {sequential.products[0]} \\")
    print(f"    --images {data / 'images'} --query my_recording.wav")


if __name__ == "__main__":
    sys.exit(run_example(main))
