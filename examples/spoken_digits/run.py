"""Trains (W2V2, VGS) on real recordings of digits and images of handwritten digits; recall by label.

    make spoken-digits RECORDINGS=DIR [TEST_SPEAKERS=a,b] [OUT=runs/digits]

The output folder gets results.json, curves.png, gallery.png, index.html, the data folder and the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, run_example
from examples.training_bar import phases_run

RECIPE = "joint_sequential_small"
OVERRIDES = (
    # in training and evaluation every image of the digit is relevant; few recordings last a second
    "task.relevance=label",
    "task.re_pairing=true",
    "task.max_duration_s=1.0",
    "task.eval_max_duration_s=1.0",
    # 50 frames a second, because at 25 a digit has about ten frames
    'model.conv_feature_layers="[(80,400,160)] + [(64,5,2,2)] + [(64,5,1,2)]"',
    "model.mask_length=5",
)
# the test split has the speakers of training; chosen on the valid split, see README.md
KNOWN_SPEAKERS = ("task.speed_perturb=0.1",)
# the test speakers are new; chosen by leaving two training speakers out, see README.md
LEFT_OUT_SPEAKERS = (
    "task.speed_perturb=0.25",
    "task.noise_snr_db=[5,30]",
    "model.fbank_warp=0.25",
    "model.fbank_mask_bins=25",
)


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    parser = stages.example_parser(__doc__, "runs/digits")
    parser.add_argument(
        "--recordings", type=Path, required=True, help="folder of {digit}_{speaker}_{take}.wav"
    )
    parser.add_argument(
        "--test-speakers", default="", help="comma-separated; the other speakers are trained on"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the training (1)")
    args = parser.parse_intermixed_args(argv)
    out, data = args.out, args.out / "data"
    pipeline = Pipeline(out, args.fresh)
    options = ["--recordings", str(args.recordings)]
    if args.test_speakers:
        options += ["--test-speakers", args.test_speakers]
    pipeline.run(stages.manifest_stage("spoken_digits", data, options))
    augmentation = LEFT_OUT_SPEAKERS if args.test_speakers else KNOWN_SPEAKERS
    settings = [f"common.seed={args.seed}", *OVERRIDES, *augmentation, *args.overrides]
    run = stages.training_stage("joint_sequential", RECIPE, data, out, settings)
    pipeline.run(run)
    phases = phases_run(run.folder / "hydra_train.log")
    evaluation = stages.retrieval_stage(run, data, out, "label", out / "gallery.png")
    pipeline.run(evaluation)
    pipeline.run(stages.curves_stage({"(W2V2, VGS)": run}, phases, out / "curves.png", out / "curves"))

    scores = results.read_json(evaluation.products[0])
    content = {
        "retrieval": scores,
        "test_speakers": [name for name in args.test_speakers.split(",") if name],
        "schedule": phases,
        "seed": args.seed,
        "health": [phase.to_json() for phase in results.run_health(run.folder)],
        "checkpoint": str(run.products[0]),
        **results.how_made(pipeline),
    }
    results.write_json(out / "results.json", content)
    table = results.retrieval_table({"(W2V2, VGS)": scores})
    who = f"Left-out speakers: {args.test_speakers}." if args.test_speakers else "Takes 0–4 of every speaker."
    texts = [results.measured_on(scores), f"{results.schedule_line(phases)}.", who]
    page = results.write_report(
        "Handwritten digits from spoken ones",
        content,
        [("Retrieval", " ".join(texts), table)],
        {"Losses": out / "curves.png", "Captions and their five best images": out / "gallery.png"},
        {"(W2V2, VGS)": run.folder / ".hydra" / "config.yaml"},
        out / "index.html",
    )
    print("\n" + "\n".join(texts) + "\n")
    results.print_table(table)
    print(f"\ncheckpoint: {run.products[0]}")
    print(f"results:    {out / 'results.json'}; all in one page: {page}")


if __name__ == "__main__":
    sys.exit(run_example(main))
