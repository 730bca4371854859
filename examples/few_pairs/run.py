"""Trains VGS on a part of the pairs and self-supervision on all captions.

    make few-pairs             or      python examples/few_pairs/run.py --out runs/few_pairs

(W2V2, VGS), (MT4SSL, VGS), VGS+ and VGS are compared by number of pairs. The output folder gets results.json,
findings.json, tables.md, curve.png, index.html and a folder for each run. A second call does only what is not
done yet. With --from-results these files are made from recorded results, and nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import records, stages
from examples.few_pairs import jobs as plan
from examples.few_pairs.jobs import COMPARISONS, DIAGNOSES, VARIANTS, Job, Setting
from examples.few_pairs.reporting import report
from examples.pipeline import Pipeline, Stage, run_example
from examples.variants import PARTS, in_sevenths, seeds_of, variants_of
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError

WAYS = ("image", "caption")
CLUSTERS = 100


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    if args.from_results:
        found = records.read_records(args.from_results)
        report(found, records.seconds_of(found), args.out)
        return
    updates = in_sevenths(args.updates, "--updates")
    setting = Setting(args.data or args.out / "data", args.out, updates, args.config, tuple(args.overrides))
    variants = variants_of(args.only or ",".join(VARIANTS), VARIANTS | COMPARISONS)
    sizes, seeds = plan.sizes_of(args.pairs), seeds_of(args.seeds)
    ways = WAYS if args.by == "both" else (args.by,)
    ordinary = plan.jobs_of(variants, sizes, ways, seeds)
    diagnoses, towers = diagnoses_of(sizes, ways, seeds) if args.diagnose else ([], [])
    # diagnoses take their image encoders from these runs
    ordinary += [job for job in towers if job not in ordinary]

    labels = stages.labels_stage("mfcc-cmn", "mfcc-cmn", CLUSTERS, setting.whole, args.out)
    runs = {job: plan.training(job, setting, labels) for job in ordinary}
    tower = {job.seed: runs[job] for job in towers}
    last = {job: plan.training(job, setting, labels, tower[job.seed]) for job in diagnoses}

    pipeline = Pipeline(args.out, args.fresh)
    known = recorded(runs, last, tower, pipeline, args.record)
    groups = [{job: run for job, run in some.items() if job.name not in known} for some in (runs, last)]
    trained = [job for group in groups for job in group]
    if args.data is None:
        pipeline.run(stages.manifest_stage("scenes", setting.whole))
    for pairs, by in dict.fromkeys((job.pairs, job.by) for job in trained if job.by):
        pipeline.run(plan.pairs_stage(pairs, by, setting.whole, args.out))
    if any(job.variant.needs_labels for job in trained):
        pipeline.run(labels)
    for group in groups:
        train(group, setting, pipeline, args)
    for record in known.values():
        records.keep_record(record, args.out, None)
    names = [job.name for job in (*runs, *last)]
    found = records.read_records([args.out / records.RECORDS_FOLDER])
    report([record for record in found if record["name"] in names], pipeline.total_seconds(), args.out)


def recorded(
    runs: Mapping[Job, Stage],
    last: Mapping[Job, Stage],
    tower: Mapping[int, Stage],
    pipeline: Pipeline,
    kept: Path | None,
) -> dict[str, records.Record]:
    """Name -> record of the runs that are not trained, because --record has one of the same command.

    last: the diagnoses, which begin with the checkpoint of the run in `tower` of their seed. Records hold no
    checkpoints, hence that run is trained unless its diagnoses are recorded too.
    """
    known = records.stand_ins(last.values(), pipeline, kept)
    wanted = {tower[job.seed].name for job in last if job.name not in known}
    return known | records.stand_ins([run for run in runs.values() if run.name not in wanted], pipeline, kept)


def train(runs: dict[Job, Stage], setting: Setting, pipeline: Pipeline, args: argparse.Namespace) -> None:
    """Train, evaluate and record runs."""
    jobs = {stage.name: job for job, stage in runs.items()}
    pairs_in_all = len(read_audio_manifest(setting.whole / "train.tsv"))

    def measure(run: Stage) -> list[Stage]:
        """Retrieval of a trained run on the test split, which is the same for all runs."""
        folder = run.folder / "evaluation"
        return [stages.retrieval_stage(run, setting.whole, args.out, "image", folder=folder)]

    def record(run: Stage) -> None:
        """Write the record of an evaluated run."""
        job = jobs[run.name]
        made = records.make_record(
            run,
            job.variant.title,
            job.variant.schedule,
            job.seed,
            pipeline,
            variant=job.variant.name,
            ssl=job.variant.ssl,
            pairs=job.pairs,
            by=job.by,
            pairs_in_all=pairs_in_all,
        )
        records.keep_record(made, args.out, args.record)

    pipeline.run(*runs.values(), at_once=args.at_once, then=measure, finish=record)


def diagnoses_of(
    sizes: Sequence[str], ways: tuple[str, ...], seeds: list[int]
) -> tuple[list[Job], list[Job]]:
    """The runs of --diagnose, on the fewest pairs, and those from which they take their image encoders.

    Raises: ConfigError without a number of pairs.
    """
    numbers = [size for size in sizes if size != plan.ALL]
    if not numbers:
        raise ConfigError("--diagnose", ["wants a number of pairs beside all; give one, as --pairs 300,all"])
    diagnoses = plan.jobs_of(list(DIAGNOSES.values()), [min(numbers, key=int)], ways, seeds)
    return diagnoses, [Job(VARIANTS["vgs"], plan.ALL, "", seed) for seed in seeds]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/few_pairs")
    note = (
        " (OUT/records); a run of which it has a record of the same command is not trained again, unless "
        "--diagnose needs its checkpoint"
    )
    stages.add_run_options(parser, "1,2,3", "make all files", note)
    add = parser.add_argument
    add(
        "--data", type=Path, metavar="DIR", help="a folder of train, valid and test pairs (scenes, made here)"
    )
    add("--pairs", default="300,1000,all", metavar="N,…", help="numbers of training pairs (300,1000,all)")
    add(
        "--by",
        choices=(*WAYS, "both"),
        default="image",
        help="(image) fewer images with all their captions, or fewer captions of as many images as possible",
    )
    names = f"all of {','.join(VARIANTS)}; also known: {','.join(COMPARISONS)}"
    add("--only", metavar="V,…", help=f"only these variants ({names})")
    add(
        "--diagnose",
        action="store_true",
        help="on the fewest pairs, also train with the frozen image encoder of VGS on all pairs",
    )
    add(
        "--updates",
        type=int,
        default=plan.UPDATES,
        metavar="N",
        help=f"updates of a sequence, a multiple of {PARTS} ({plan.UPDATES})",
    )
    add("--config", default=plan.RECIPE, metavar="RECIPE", help=f"recipe of all runs ({plan.RECIPE})")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(run_example(main))
