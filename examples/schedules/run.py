"""The nine variants of Khorrami et al. on one corpus: trained, evaluated, tables, figures, findings.

    make schedules             or      python examples/schedules/run.py --out runs/schedules

Leaves in the output folder results.json, index.html, paper/ (Tables I and II, Figures 2 and 3, findings) and
a folder a run with its checkpoints and evaluations. Run again, it does only what is not done yet.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples import results, stages
from examples.pipeline import Pipeline, Stage, run_example
from fairseq_mtssl.data.corpus import usable_cores
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.page import Table
from fairseq_mtssl.schedule import SCHEDULES

VARIANTS = tuple("_".join(kinds) for kinds in SCHEDULES)
PARTS, FIRST_PARTS = 7, 2  # of the paper's 70 epochs: a checkpoint after every 10, phases of 20 and 50
MEASURED_PARTS = (1, 2, 3, 5, 7)  # whose checkpoints ABX is measured on
UPDATES, EPOCHS = 420, 70
# so few updates leave nothing to regularise: with masks VGS hardly starts in 400
SMALL_OVERRIDES = ("model.vgs_mask_prob=0",)
COSTS = {"w2v2": 1.0, "vgs": 1.0, "vgsplus": 1.6}  # of an update, to begin with the longest runs
SPLIT = "test"
ABX_OPTIONS = ("--slicing", "librilight")  # the paper's protocol, with items that span triphones
SAVED = re.compile(r"Saved checkpoint (?P<path>.+?) \(epoch \d+ @ (?P<updates>\d+) updates")
KEPT = re.compile(r"checkpoint(\d+|_\d+_\d+)\.pt")
NEVER = 1_000_000


@dataclass(frozen=True)
class Length:
    """Of every run, in updates or in epochs; the phases of a sequence are 2/7 and 5/7 of it."""

    amount: int
    unit: str

    @property
    def part(self) -> int:
        """From one kept checkpoint to the next."""
        return self.amount // PARTS

    def overrides(self) -> list[str]:
        """How long a run is, and which checkpoints it keeps."""
        if self.unit == "epochs":
            settings = {
                "optimization.max_epoch": self.amount,
                "optimization.max_update": 0,
                "checkpoint.save_interval": self.part,
                "checkpoint.keep_last_epochs": -1,
                "checkpoint.no_epoch_checkpoints": "false",
            }
        else:
            settings = {
                "optimization.max_epoch": 0,
                "optimization.max_update": self.amount,
                "dataset.validate_interval": NEVER,
                "dataset.validate_interval_updates": self.part,
                "checkpoint.save_interval": NEVER,
                "checkpoint.save_interval_updates": self.part,
                "checkpoint.keep_interval_updates": -1,
                "checkpoint.no_epoch_checkpoints": "true",
                "common.log_interval": max(1, min(25, self.part // 4)),
            }
        return [f"{key}={value}" for key, value in settings.items()]

    def phases(self, variant: str) -> str:
        """task.lengths of a variant."""
        both = "_" in variant
        return f"task.lengths=[{FIRST_PARTS * self.part} {self.unit},rest]" if both else "task.lengths=[rest]"


def main(argv: list[str] | None = None) -> None:
    """Run every stage that is not done yet. Raises: MtsslError."""
    args = parse(argv)
    length, seeds, variants = length_of(args), seeds_of(args.seeds), variants_of(args.only)
    out, data = args.out, args.data or args.out / "data"
    item = find_item(args, data)
    pipeline = Pipeline(out, args.fresh)
    if args.data is None:
        pipeline.run(stages.manifest_stage(args.corpus, data))
        pipeline.run(stages.items_stage(data, SPLIT, out))
    at_once = min(args.at_once or usable_cores(), len(variants) * len(seeds))
    trainings = [
        training(variant, seed, args, data, length)
        for seed in seeds
        for variant in sorted(variants, key=lambda name: -cost(name))
    ]
    pipeline.run_queue(trainings, at_once)
    evaluations = []
    for run in trainings:
        folder = run.folder / "evaluation" / "retrieval"
        evaluations.append(stages.retrieval_stage(run, data, out, args.relevance, folder=folder))
        evaluations += abx_stages(run, item, data) if item is not None else []
    pipeline.run_queue(evaluations, at_once)
    paper = paper_stage(trainings, evaluations, out)
    pipeline.run(paper)
    report(pipeline, paper.folder, trainings, length, seeds, out)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/schedules"), help="output folder (runs/schedules)"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--corpus", choices=("scenes",), default="scenes", help="made here (scenes)")
    source.add_argument("--data", type=Path, metavar="DIR", help="a folder of train, valid and test pairs")
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
    parser.add_argument("--seeds", default="1", metavar="S,…", help="each variant is trained with each (1)")
    parser.add_argument("--only", metavar="V,…", help=f"some variants (all of {','.join(VARIANTS)})")
    parser.add_argument(
        "--relevance",
        choices=("image", "label"),
        default="image",
        help="as evaluate-retrieval (image)",
    )
    parser.add_argument("--at-once", type=int, metavar="N", help="runs side by side (one a core, or one GPU)")
    parser.add_argument("--fresh", action="store_true", help="do every stage anew")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for fairseq-hydra-train")
    return parser.parse_intermixed_args(argv)


def length_of(args: argparse.Namespace) -> Length:
    """--updates or --epochs. Raises: ConfigError unless it can be cut into the paper's seven parts."""
    is_small = args.config.endswith("_small")
    if args.epochs is not None or (args.updates is None and not is_small):
        amount, unit = args.epochs if args.epochs is not None else EPOCHS, "epochs"
    else:
        amount, unit = args.updates if args.updates is not None else UPDATES, "updates"
    if amount < PARTS or amount % PARTS:
        near = max(PARTS, round(amount / PARTS) * PARTS)
        why = "phases are 2/7 and 5/7, checkpoints 1/7 apart"
        raise ConfigError(f"--{unit}", [f"got {amount}, wanted a multiple of {PARTS} such as {near}: {why}"])
    return Length(amount, unit)


def seeds_of(text: str) -> list[int]:
    """--seeds. Raises: ConfigError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ConfigError("--seeds", [f"got {text!r}, wanted whole numbers, each once, such as 1,2,3"])
    return [int(word) for word in words]


def variants_of(text: str | None) -> list[str]:
    """--only. Raises: ConfigError naming every unknown variant."""
    words = list(dict.fromkeys(word.strip() for word in text.split(","))) if text else list(VARIANTS)
    unknown = [word for word in words if word not in VARIANTS]
    if unknown:
        raise ConfigError("--only", [f"got {', '.join(unknown)}, wanted some of {', '.join(VARIANTS)}"])
    return words


def find_item(args: argparse.Namespace, data: Path) -> Path | None:
    """The ABX items; None, which is said, where a data folder has none. Raises: ConfigError."""
    if args.item is not None:
        if not args.item.is_file():
            raise ConfigError("--item", [f"{args.item} is not there; give a file of ABX items"])
        return Path(args.item)
    item = data / f"{SPLIT}.item"
    if args.data is None or item.is_file():
        return item
    cure = f"python manifests/aligned_phones.py --data {data} --splits {SPLIT} --alignment FILE-OR-DIR"
    print(f"ABX is not measured: {item} is not there. With phone alignments, make it first: {cure}")
    return None


def cost(variant: str) -> float:
    """Of an update, on average over the phases."""
    kinds = variant.split("_")
    shares = [1.0] if len(kinds) == 1 else [FIRST_PARTS / PARTS, 1 - FIRST_PARTS / PARTS]
    return sum(share * COSTS[kind] for share, kind in zip(shares, kinds, strict=True))


def training(variant: str, seed: int, args: argparse.Namespace, data: Path, length: Length) -> Stage:
    """One variant with one seed: one fairseq-hydra-train, whose product is its last checkpoint."""
    settings = [
        f"task.schedule={variant}",
        length.phases(variant),
        f"task.relevance={args.relevance}",
        f"common.seed={seed}",
        *length.overrides(),
        *(SMALL_OVERRIDES if args.config.endswith("_small") else ()),
        *args.overrides,
    ]
    run = stages.training_stage(f"{variant}-seed{seed}", args.config, data, args.out, settings)
    # not the best on valid: what a second phase does to the first is seen at its end
    return replace(run, products=[run.folder / "checkpoint_last.pt"])


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


def abx_stages(run: Stage, item: Path, data: Path) -> list[Stage]:
    """ABX of a run's checkpoints after 1, 2, 3, 5 and 7 sevenths of it."""
    kept = kept_checkpoints(run.folder)
    if len(kept) < 2:
        raise ConfigError(
            str(run.folder), ["keeps no checkpoint by update or epoch; leave checkpoint.* as they are"]
        )
    end = max(kept)
    wanted = [round(end * part / PARTS) for part in MEASURED_PARTS]
    missing = [updates for updates in wanted if updates not in kept]
    if missing:  # fairseq keeps none where an update is also the end of an epoch
        print(
            f"{run.name}: no checkpoint after {', '.join(map(str, missing))} updates; ABX there is left out"
        )
    chosen = [updates for updates in wanted if updates in kept]
    return [stages.abx_stage(run, kept[updates], updates, item, data, ABX_OPTIONS) for updates in chosen]


def paper_stage(trainings: Sequence[Stage], evaluations: Sequence[Stage], out: Path) -> Stage:
    """`mtssl report … --paper`."""
    folder = out / "paper"
    command = ["mtssl", "report", *(str(run.folder) for run in trainings), "--paper", str(folder)]
    needs = [stage.name for stage in (*trainings, *evaluations)]
    return Stage("paper", command, folder, [folder / "paper.json", folder / "fig3.png"], needs=needs)


def report(
    pipeline: Pipeline, paper: Path, trainings: Sequence[Stage], length: Length, seeds: list[int], out: Path
) -> None:
    """Write results.json and the page."""
    numbers = results.read_json(paper / "paper.json")
    content: dict[str, Any] = {
        **numbers,
        "length": f"{length.amount} {length.unit}",
        "seeds": seeds,
        "seconds": pipeline.total_seconds(),
        "commands": pipeline.commands,
        "versions": results.versions(),
    }
    results.write_json(out / "results.json", content)
    columns = ("claim", "verdict", "numbers")
    findings = [[finding[name] for name in columns] for finding in numbers["findings"]]
    tables = [
        (title, numbers["tables"][name]["note"], Table(**keep_table(numbers["tables"][name])))
        for title, name in (("Table I: retrieval", "retrieval"), ("Table II: ABX", "abx"))
    ]
    rules = "The rules are those of fairseq_mtssl/report/findings.py, fixed before any run."
    pictures = {
        "Fig. 2: ABX error by layer and by update": paper / "fig2.png",
        "Fig. 2 in full: by layer at each checkpoint": paper / "fig2_layers.png",
        "Fig. 3: losses": paper / "fig3.png",
    }
    page = results.write_report(
        "Nine schedules of self-supervision and visual grounding",
        content,
        [*tables, ("Findings", rules, Table(["finding", "verdict", "numbers"], findings))],
        {name: path for name, path in pictures.items() if path.is_file()},
        {run.name: run.folder / ".hydra" / "config.yaml" for run in trainings},
        out / "index.html",
    )
    print()
    for finding in numbers["findings"]:
        print(f"{finding['verdict']}: {finding['claim']}")
    print(f"\n{out / 'results.json'}, {paper}; all in one page: {page}")


def keep_table(content: dict[str, Any]) -> dict[str, Any]:
    """A table of paper.json without its note."""
    return {name: content[name] for name in ("header", "rows")}


if __name__ == "__main__":
    sys.exit(run_example(main))
