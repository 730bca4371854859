"""Trains and evaluates the nine variants of Khorrami et al. on one corpus; makes tables, figures, findings.

    make schedules             or      python examples/schedules/run.py --out runs/schedules

The output folder gets results.json, findings.json, tables.md, index.html, paper/ (Tables I and II, Figures 2
and 3, findings) and a folder for each run with its checkpoints and evaluations. A second call does only what
is not done yet. With --from-results tables are made from recorded results, and nothing is trained.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import records, stages
from examples.pipeline import Pipeline, Stage, run_example
from examples.schedules.reporting import about_records, about_runs, report
from examples.variants import (
    BRANCHES,
    FIRST_PARTS,
    NINE,
    PARTS,
    Variant,
    in_sevenths,
    phase_lengths,
    seeds_of,
    update_settings,
    variants_of,
    words_of,
)
from fairseq_mtssl.errors import ConfigError

MEASURED_PARTS = {
    "ends": (FIRST_PARTS, PARTS),
    "all": (1, 2, 3, 5, 7),
}  # sevenths of a run, where ABX is measured
UPDATES, EPOCHS = 1505, 70
CLUSTERS = 100
SPLIT = "test"
ABX_OPTIONS = ("--slicing", "librilight")  # the paper's: items are triphones
SAVED = re.compile(r"Saved checkpoint (?P<path>.+?) \(epoch \d+ @ (?P<updates>\d+) updates")
KEPT = re.compile(r"checkpoint(\d+|_\d+_\d+)\.pt")


@dataclass(frozen=True)
class Length:
    """The length of every run, in updates or in epochs."""

    amount: int
    unit: str

    def overrides(self, kept_parts: int = 1) -> list[str]:
        """Settings of the length and of checkpoints, which are kept after every `kept_parts` sevenths."""
        part = self.amount // PARTS
        every = kept_parts * part
        if self.unit == "epochs":
            settings = {
                "optimization.max_epoch": self.amount,
                "optimization.max_update": 0,
                "checkpoint.save_interval": every,
                "checkpoint.keep_last_epochs": -1,
                "checkpoint.no_epoch_checkpoints": "false",
            }
            return words_of(settings)
        kept = {"checkpoint.keep_interval_updates": -1, "checkpoint.no_epoch_checkpoints": "true"}
        return update_settings(self.amount, every, part, kept)

    def __str__(self) -> str:
        return f"{self.amount} {self.unit}"


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    if args.from_results:
        rebuild(args)
        return
    length, seeds = length_of(args), seeds_of(args.seeds)
    variants = variants_of(args.only, NINE | BRANCHES if args.branches else NINE)
    out, data = args.out, args.data or args.out / "data"
    item = find_item(args, data)
    pipeline = Pipeline(out, args.fresh)
    if args.data is None:
        pipeline.run(stages.manifest_stage(args.corpus, data))
        pipeline.run(stages.items_stage(data, SPLIT, out))
    labels = stages.labels_stage("mfcc-cmn", "mfcc-cmn", CLUSTERS, data, out)
    if any(variant.needs_labels for variant in variants):
        pipeline.run(labels)
    jobs = {
        run.name: (run, variant, seed)
        for seed in seeds
        for variant in sorted(variants, key=lambda each: -each.cost)
        for run in [training(variant, seed, args, data, length, labels)]
    }
    known = records.stand_ins([run for run, *_ in jobs.values()], pipeline, args.record)
    evaluations: list[str] = []

    def measure(run: Stage) -> list[Stage]:
        """The evaluations of a run that has been trained."""
        stages_of_run = evaluations_of(run, args, item, data)
        evaluations.extend(stage.name for stage in stages_of_run)
        return stages_of_run

    def record(run: Stage) -> None:
        """Write the record of a run that has been evaluated."""
        _, variant, seed = jobs[run.name]
        facts = {"ssl": variant.ssl, "length": str(length)}
        made = records.make_record(run, variant.title, variant.schedule, seed, pipeline, **facts)
        records.keep_record(made, out, args.record)

    runs = [run for name, (run, *_) in jobs.items() if name not in known]
    pipeline.run(*runs, at_once=args.at_once, then=measure, finish=record)
    restored = {restored_folder(record, out): record["title"] for record in known.values()}
    titles = {run.folder: jobs[run.name][1].title for run in runs} | restored
    papers = papers_of(titles, out, [*(run.name for run in runs), *evaluations])
    for paper in papers.values():
        pipeline.run(paper)
    report(papers, about_runs(pipeline, str(length), seeds), {run.name: run.folder for run in runs}, out)


def restored_folder(record: records.Record, out: Path) -> Path:
    """Write the files of a recorded run that `mtssl report` reads. Returns: their folder."""
    folder = out / "restored" / str(record["name"])
    records.restore_run(record, folder)
    return folder


def rebuild(args: argparse.Namespace) -> None:
    """Tables, figures and findings of recorded results, without training. Raises: MtsslError."""
    found = records.read_records(args.from_results)
    pipeline = Pipeline(args.out, fresh=True)
    titles = {restored_folder(record, args.out): record["title"] for record in found}
    papers = papers_of(titles, args.out)
    for paper in papers.values():
        pipeline.run(paper)
    report(papers, about_records(found), {}, args.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/schedules")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--corpus", choices=("scenes",), default="scenes", help="the corpus to make (scenes)")
    source.add_argument("--data", type=Path, metavar="DIR", help="a folder of train, valid and test pairs")
    note = " (OUT/records); a run of which it has a record of the same command is not trained again"
    stages.add_run_options(parser, "1", "make tables, figures and findings", note)
    parser.add_argument(
        "--item", type=Path, metavar="FILE", help=f"ABX items of the split {SPLIT} (DIR/{SPLIT}.item)"
    )
    parser.add_argument(
        "--config",
        default="joint_sequential_small",
        metavar="RECIPE",
        help="recipe of all runs except for the schedule (joint_sequential_small; full: joint_sequential)",
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--updates",
        type=int,
        metavar="N",
        help=f"length of each run, a multiple of {PARTS} ({UPDATES} for small recipes)",
    )
    much.add_argument(
        "--epochs", type=int, metavar="N", help=f"length in epochs ({EPOCHS} for recipes that are not small)"
    )
    parser.add_argument(
        "--abx",
        choices=tuple(MEASURED_PARTS),
        help="when to measure ABX: ends: at the ends of both phases (small recipes); all: after 1, 2, 3, 5 "
        "and 7 sevenths. A change trains the runs again, because other checkpoints have to be kept",
    )
    parser.add_argument(
        "--branches",
        action="store_true",
        help="train the other SSL branches too, all at constant speed, which cluster labels need",
    )
    parser.add_argument(
        "--only",
        metavar="V,…",
        help=f"only these variants (all of {','.join(NINE)}; with --branches also {','.join(BRANCHES)})",
    )
    parser.add_argument(
        "--relevance",
        choices=("image", "label"),
        default="image",
        help="which images are relevant, as in evaluate-retrieval (image)",
    )
    return parser.parse_intermixed_args(argv)


def length_of(args: argparse.Namespace) -> Length:
    """Read --updates or --epochs. Raises: ConfigError if it is not a multiple of the paper's seven parts."""
    if args.epochs is not None or (args.updates is None and not is_small(args)):
        amount, unit = args.epochs if args.epochs is not None else EPOCHS, "epochs"
    else:
        amount, unit = args.updates if args.updates is not None else UPDATES, "updates"
    why = "phases are 2/7 and 5/7, checkpoints 1/7 apart"
    return Length(in_sevenths(amount, f"--{unit}", why), unit)


def is_small(args: argparse.Namespace) -> bool:
    """Whether the recipe trains in minutes."""
    return bool(args.config.endswith("_small"))


def measured_parts(args: argparse.Namespace) -> Sequence[int]:
    """Read --abx: after how many sevenths of a run ABX is measured."""
    return MEASURED_PARTS[args.abx or ("ends" if is_small(args) else "all")]


def find_item(args: argparse.Namespace, data: Path) -> Path | None:
    """The file of ABX items; None, with a message, if a given data folder has none. Raises: ConfigError."""
    if args.item is not None:
        if not args.item.is_file():
            raise ConfigError("--item", [f"{args.item} is not there; give a file of ABX items"])
        return Path(args.item)
    item = data / f"{SPLIT}.item"
    if args.data is None or item.is_file():
        return item
    hint = f"python manifests/aligned_phones.py --data {data} --splits {SPLIT} --alignment FILE-OR-DIR"
    print(f"ABX is not measured: {item} is not there. With phone alignments, make it first: {hint}")
    return None


def training(
    variant: Variant, seed: int, args: argparse.Namespace, data: Path, length: Length, labels: Stage
) -> Stage:
    """The training of a variant with a seed. labels: the stage that makes labels, if it needs them."""
    settings = [
        f"task.schedule={variant.schedule}",
        f"task.lengths={phase_lengths(variant.schedule, length.amount, length.unit)}",
        f"task.relevance={args.relevance}",
        f"common.seed={seed}",
        # after every seventh, or at the end of a first phase
        *length.overrides(1 if len(measured_parts(args)) > 2 else FIRST_PARTS),
        *variant.settings,
        *([f"task.labels=[{stages.hydra_value(str(labels.folder))}]"] if variant.needs_labels else []),
        *args.overrides,
    ]
    needs = ("data", labels.name) if variant.needs_labels else ("data",)
    name = f"{variant.name}-seed{seed}"
    # not the best on valid: only the last checkpoint shows what a second phase does to the first
    last = "checkpoint_last.pt"
    return stages.training_stage(name, args.config, data, args.out, settings, needs, last)


def evaluations_of(run: Stage, args: argparse.Namespace, item: Path | None, data: Path) -> list[Stage]:
    """Retrieval at the end of a run, and ABX if there are items."""
    folder = run.folder / "evaluation" / "retrieval"
    retrieval = stages.retrieval_stage(run, data, args.out, args.relevance, folder=folder)
    return [retrieval, *(abx_stages(run, item, data, measured_parts(args)) if item is not None else [])]


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """Updates -> checkpoint, for the existing checkpoints that the log of a run names."""
    log = folder / "hydra_train.log"
    saved = list(SAVED.finditer(log.read_text(encoding="utf-8") if log.is_file() else ""))
    found = {int(each["updates"]): folder / Path(each["path"]).name for each in saved}
    kept = {updates: path for updates, path in found.items() if KEPT.fullmatch(path.name) and path.is_file()}
    last = folder / "checkpoint_last.pt"
    if found and max(found) not in kept and last.is_file():
        kept[max(found)] = last
    return dict(sorted(kept.items()))


def abx_stages(run: Stage, item: Path, data: Path, parts: Sequence[int]) -> list[Stage]:
    """ABX of the checkpoints after some sevenths (`parts`) of a run. Raises: ConfigError if none was kept."""
    kept = kept_checkpoints(run.folder)
    if len(kept) < 2:
        raise ConfigError(
            str(run.folder), ["keeps no checkpoint by update or epoch; leave checkpoint.* as they are"]
        )
    end = max(kept)
    wanted = [round(end * part / PARTS) for part in parts]
    missing = [updates for updates in wanted if updates not in kept]
    if missing:  # fairseq keeps none if the update also ends an epoch
        print(
            f"{run.name}: no checkpoint after {', '.join(map(str, missing))} updates; ABX there is left out"
        )
    chosen = [updates for updates in wanted if updates in kept]
    return [stages.abx_stage(run, kept[updates], updates, item, data, ABX_OPTIONS) for updates in chosen]


def papers_of(titles: Mapping[Path, str], out: Path, needs: Sequence[str] = ()) -> dict[str, Stage]:
    """`mtssl report … --paper` of the nine variants and, if there are others, of all in a second folder.

    titles: run folder -> title of its row.
    """
    nine = {variant.title for variant in NINE.values()}
    rows = [variant.title for variant in (*NINE.values(), *BRANCHES.values())]
    ordered = sorted(titles, key=lambda run: rows.index(titles[run]) if titles[run] in rows else len(rows))
    chosen = {"paper": [folder for folder in ordered if titles[folder] in nine]}
    if len(chosen["paper"]) < len(titles):
        chosen["branches"] = ordered
    papers = {}
    for name, folders in chosen.items():
        if folders:
            folder = out / name
            words = [f"{titles[run]}={run}" for run in folders]
            command = ["mtssl", "report", *words, "--paper", str(folder)]
            products = [folder / "paper.json", folder / "fig3.png"]
            papers[name] = Stage(name, command, folder, products, needs=needs)
    return papers


if __name__ == "__main__":
    sys.exit(run_example(main))
