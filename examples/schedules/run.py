"""The nine variants of Khorrami et al. on one corpus: trained, evaluated, tables, figures, findings.

    make schedules             or      python examples/schedules/run.py --out runs/schedules

Leaves in the output folder results.json, findings.json, tables.md, index.html, paper/ (Tables I and II,
Figures 2 and 3, findings) and a folder a run with its checkpoints and evaluations. Run again, it does only
what is not done yet. With --from-results tables are rebuilt from recorded results, and nothing is trained.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import records, stages
from examples.pipeline import Pipeline, Stage, run_example
from examples.schedules.reporting import about_records, about_runs, report
from examples.variants import (
    BRANCHES,
    FIRST_PARTS,
    NEVER,
    NINE,
    PARTS,
    Variant,
    in_sevenths,
    seeds_of,
    variants_of,
)
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.errors import ConfigError

MEASURED_PARTS = {"ends": (FIRST_PARTS, PARTS), "all": (1, 2, 3, 5, 7)}  # where ABX is measured
UPDATES, EPOCHS = 1505, 70
CLUSTERS = 100
SPLIT = "test"
ABX_OPTIONS = ("--slicing", "librilight")  # the paper's protocol, with items that span triphones
SAVED = re.compile(r"Saved checkpoint (?P<path>.+?) \(epoch \d+ @ (?P<updates>\d+) updates")
KEPT = re.compile(r"checkpoint(\d+|_\d+_\d+)\.pt")


@dataclass(frozen=True)
class Length:
    """Of every run, in updates or in epochs; the phases of a sequence are 2/7 and 5/7 of it."""

    amount: int
    unit: str

    @property
    def part(self) -> int:
        """A seventh."""
        return self.amount // PARTS

    def overrides(self, kept_parts: int = 1) -> list[str]:
        """How long a run is, and after how many parts each it keeps a checkpoint."""
        every = kept_parts * self.part
        if self.unit == "epochs":
            settings = {
                "optimization.max_epoch": self.amount,
                "optimization.max_update": 0,
                "checkpoint.save_interval": every,
                "checkpoint.keep_last_epochs": -1,
                "checkpoint.no_epoch_checkpoints": "false",
            }
        else:
            settings = {
                "optimization.max_epoch": 0,
                "optimization.max_update": self.amount,
                "dataset.validate_interval": NEVER,
                "dataset.validate_interval_updates": every,
                "checkpoint.save_interval": NEVER,
                "checkpoint.save_interval_updates": every,
                "checkpoint.keep_interval_updates": -1,
                "checkpoint.no_epoch_checkpoints": "true",
                "common.log_interval": max(1, min(25, self.part // 4)),
            }
        return [f"{key}={value}" for key, value in settings.items()]

    def phases(self, schedule: str) -> str:
        """task.lengths of a schedule."""
        both = "_" in schedule
        return f"task.lengths=[{FIRST_PARTS * self.part} {self.unit},rest]" if both else "task.lengths=[rest]"

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
        """The evaluations of a run that is trained."""
        found = evaluations_of(run, args, item, data)
        evaluations.extend(stage.name for stage in found)
        return found

    def record(run: Stage) -> None:
        """Keep the record of a run that is measured."""
        _, variant, seed = jobs[run.name]
        facts = {"ssl": variant.ssl, "length": str(length)}
        made = records.make_record(run, variant.title, variant.schedule, seed, pipeline, **facts)
        records.keep_record(made, out, args.record)

    runs = [run for name, (run, *_) in jobs.items() if name not in known]
    pipeline.run(*runs, at_once=args.at_once or usable_cores(), then=measure, finish=record)
    restored = {restored_folder(record, out): record["title"] for record in known.values()}
    titles = {run.folder: jobs[run.name][1].title for run in runs} | restored
    papers = papers_of(titles, out, [*(run.name for run in runs), *evaluations])
    for paper in papers.values():
        pipeline.run(paper)
    report(papers, about_runs(pipeline, str(length), seeds), {run.name: run.folder for run in runs}, out)


def restored_folder(record: records.Record, out: Path) -> Path:
    """Where a recorded run is laid as `mtssl report` reads runs."""
    folder = out / "restored" / str(record["name"])
    records.restore_run(record, folder)
    return folder


def rebuild(args: argparse.Namespace) -> None:
    """Tables, figures and findings of recorded results, without training. Raises: MtsslError."""
    found = records.read_records(args.from_results)
    pipeline = Pipeline(args.out, fresh=True)
    titles = {}
    for record in found:
        titles[restored_folder(record, args.out)] = record["title"]
    papers = papers_of(titles, args.out)
    for paper in papers.values():
        pipeline.run(paper)
    report(papers, about_records(found), {}, args.out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = stages.example_parser(__doc__, "runs/schedules")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--corpus", choices=("scenes",), default="scenes", help="made here (scenes)")
    source.add_argument("--data", type=Path, metavar="DIR", help="a folder of train, valid and test pairs")
    source.add_argument(
        "--from-results",
        type=Path,
        action="append",
        metavar="DIR",
        help="train nothing: rebuild tables, figures and findings from what --record wrote; can be repeated",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="also write a small JSON a run here (OUT/records); a run that has one of the same command there "
        "is not trained again",
    )
    parser.add_argument(
        "--item", type=Path, metavar="FILE", help=f"ABX items of the split {SPLIT} (DIR/{SPLIT}.item)"
    )
    parser.add_argument(
        "--config",
        default="joint_sequential_small",
        metavar="RECIPE",
        help="of all runs, its schedule set anew (joint_sequential_small); full size: joint_sequential",
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--updates",
        type=int,
        metavar="N",
        help=f"of each run, a multiple of {PARTS} ({UPDATES}: small)",
    )
    much.add_argument(
        "--epochs", type=int, metavar="N", help=f"instead of updates ({EPOCHS}, if the recipe is not small)"
    )
    parser.add_argument(
        "--abx",
        choices=tuple(MEASURED_PARTS),
        help="ends: at the ends of both phases; all: after 1, 2, 3, 5 and 7 sevenths, which keeps more "
        "checkpoints, so that runs made with the other are trained anew (ends, if the recipe is small)",
    )
    parser.add_argument("--seeds", default="1", metavar="S,…", help="each variant is trained with each (1)")
    parser.add_argument(
        "--branches",
        action="store_true",
        help="the other SSL branches too, all at constant speed as labels want it",
    )
    parser.add_argument(
        "--only",
        metavar="V,…",
        help=f"some variants (all of {','.join(NINE)}; with --branches also {','.join(BRANCHES)})",
    )
    parser.add_argument(
        "--relevance",
        choices=("image", "label"),
        default="image",
        help="as evaluate-retrieval (image)",
    )
    parser.add_argument("--at-once", type=int, metavar="N", help="runs side by side (one a core, or one GPU)")
    return parser.parse_intermixed_args(argv)


def length_of(args: argparse.Namespace) -> Length:
    """--updates or --epochs. Raises: ConfigError unless it can be cut into the paper's seven parts."""
    if args.epochs is not None or (args.updates is None and not is_small(args)):
        amount, unit = args.epochs if args.epochs is not None else EPOCHS, "epochs"
    else:
        amount, unit = args.updates if args.updates is not None else UPDATES, "updates"
    why = "phases are 2/7 and 5/7, checkpoints 1/7 apart"
    return Length(in_sevenths(amount, f"--{unit}", why), unit)


def is_small(args: argparse.Namespace) -> bool:
    """Whether the recipe is one that minutes suffice for."""
    return bool(args.config.endswith("_small"))


def measured_parts(args: argparse.Namespace) -> Sequence[int]:
    """--abx: the sevenths of a run after which ABX is measured."""
    return MEASURED_PARTS[args.abx or ("ends" if is_small(args) else "all")]


def find_item(args: argparse.Namespace, data: Path) -> Path | None:
    """The ABX items; None, which is said, where a data folder has none. Raises: ConfigError."""
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
    """One variant with one seed: one fairseq-hydra-train, whose product is its last checkpoint.

    labels: what makes those of the variants that predict some.
    """
    settings = [
        f"task.schedule={variant.schedule}",
        length.phases(variant.schedule),
        f"task.relevance={args.relevance}",
        f"common.seed={seed}",
        # every seventh, or only the end of what would be a first phase
        *length.overrides(1 if len(measured_parts(args)) > 2 else FIRST_PARTS),
        *variant.settings,
        *([f"task.labels=[{stages.hydra_value(str(labels.folder))}]"] if variant.needs_labels else []),
        *args.overrides,
    ]
    needs = ("data", labels.name) if variant.needs_labels else ("data",)
    run = stages.training_stage(f"{variant.name}-seed{seed}", args.config, data, args.out, settings, needs)
    # not the best on valid: what a second phase does to the first is seen at its end
    return replace(run, products=[run.folder / "checkpoint_last.pt"])


def evaluations_of(run: Stage, args: argparse.Namespace, item: Path | None, data: Path) -> list[Stage]:
    """Retrieval at the end of a run, and ABX where there are items."""
    folder = run.folder / "evaluation" / "retrieval"
    retrieval = stages.retrieval_stage(run, data, args.out, args.relevance, folder=folder)
    return [retrieval, *(abx_stages(run, item, data, measured_parts(args)) if item is not None else [])]


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """updates -> checkpoint, of those that a run's log says it kept and that are there; the last, too."""
    log = folder / "hydra_train.log"
    saved = list(SAVED.finditer(log.read_text(encoding="utf-8") if log.is_file() else ""))
    found = {int(each["updates"]): folder / Path(each["path"]).name for each in saved}
    kept = {updates: path for updates, path in found.items() if KEPT.fullmatch(path.name) and path.is_file()}
    last = folder / "checkpoint_last.pt"
    if found and max(found) not in kept and last.is_file():
        kept[max(found)] = last
    return dict(sorted(kept.items()))


def abx_stages(run: Stage, item: Path, data: Path, parts: Sequence[int]) -> list[Stage]:
    """ABX of a run's checkpoints after so many sevenths of it."""
    kept = kept_checkpoints(run.folder)
    if len(kept) < 2:
        raise ConfigError(
            str(run.folder), ["keeps no checkpoint by update or epoch; leave checkpoint.* as they are"]
        )
    end = max(kept)
    wanted = [round(end * part / PARTS) for part in parts]
    missing = [updates for updates in wanted if updates not in kept]
    if missing:  # fairseq keeps none where an update is also the end of an epoch
        print(
            f"{run.name}: no checkpoint after {', '.join(map(str, missing))} updates; ABX there is left out"
        )
    chosen = [updates for updates in wanted if updates in kept]
    return [stages.abx_stage(run, kept[updates], updates, item, data, ABX_OPTIONS) for updates in chosen]


def papers_of(titles: Mapping[Path, str], out: Path, needs: Sequence[str] = ()) -> dict[str, Stage]:
    """`mtssl report … --paper`: of the nine, and where there are more, of all in a folder of its own.

    titles: run folder -> title of its row.
    """
    nine = {variant.title for variant in NINE.values()}
    rows = [variant.title for variant in (*NINE.values(), *BRANCHES.values())]
    ordered = sorted(titles, key=lambda run: rows.index(titles[run]) if titles[run] in rows else len(rows))
    chosen = {"paper": [folder for folder in ordered if titles[folder] in nine]}
    if len(chosen["paper"]) < len(titles):
        chosen["branches"] = ordered
    found = {}
    for name, folders in chosen.items():
        if folders:
            folder = out / name
            words = [f"{titles[run]}={run}" for run in folders]
            command = ["mtssl", "report", *words, "--paper", str(folder)]
            products = [folder / "paper.json", folder / "fig3.png"]
            found[name] = Stage(name, command, folder, products, needs=needs)
    return found


if __name__ == "__main__":
    sys.exit(run_example(main))
