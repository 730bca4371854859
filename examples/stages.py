"""The commands and the options that several examples share."""

from __future__ import annotations

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.pipeline import Stage
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.report.published import PHASES

ROOT = Path(__file__).resolve().parents[1]
PLAIN = re.compile(r"[\w./+@%:-]+")


def example_parser(
    description: str | None, out: str, overrides: str = "for fairseq-hydra-train"
) -> ArgumentParser:
    """A parser with the options that every example has.

    out: the default output folder. overrides: what KEY=VALUE arguments are for.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"output folder ({out})")
    parser.add_argument("--fresh", action="store_true", help="do every stage anew")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    return parser


def add_run_options(
    parser: ArgumentParser, seeds: str, from_results_help: str, record_note: str = ""
) -> None:
    """Add the options of examples that train many runs: seeds, how many at once, and recorded results.

    seeds: the default. from_results_help, record_note: what the help says of --from-results, and adds to that
    of --record.
    """
    add = parser.add_argument
    add("--seeds", default=seeds, metavar="S,…", help=f"seeds with which each run is trained ({seeds})")
    add(
        "--at-once",
        type=int,
        default=usable_cores(),
        metavar="N",
        help="trainings at the same time (one for each core; with a GPU always one)",
    )
    add(
        "--record",
        type=Path,
        metavar="DIR",
        help=f"also write a small JSON file of each run to this folder{record_note}",
    )
    add(
        "--from-results",
        type=Path,
        action="append",
        metavar="DIR",
        help=f"train nothing: {from_results_help} from the files that --record wrote; can be repeated",
    )


def manifest_stage(script: str, data: Path, options: Sequence[str] = ()) -> Stage:
    """`manifests/{script}.py`, which writes the data folder."""
    command = ["python", from_here(ROOT / "manifests" / f"{script}.py"), *options, "--out", str(data)]
    return Stage("data", command, data, [data / "train.pairs"])


def training_stage(
    name: str,
    recipe: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    needs: Sequence[str] = ("data",),
    checkpoint: str = "checkpoint_best.pt",
) -> Stage:
    """One `fairseq-hydra-train` into the folder out/name.

    checkpoint: the product of the stage. The best one is the best by validation while VGS was on.
    """
    folder = out / name
    settings = {"task.data": str(data), "checkpoint.save_dir": str(folder)}
    words = [f"{key}={hydra_value(value)}" for key, value in settings.items()]
    return Stage(
        name,
        ["fairseq-hydra-train", "--config-name", recipe, *words, *overrides],
        folder,
        [folder / checkpoint],
        needs=needs,
        is_training=True,
    )


def retrieval_stage(
    run: Stage,
    data: Path,
    out: Path,
    relevance: str,
    gallery: Path | None = None,
    folder: Path | None = None,
) -> Stage:
    """`mtssl evaluate-retrieval` of a training's checkpoint on the test split, as JSON.

    gallery: a PNG of the images that captions retrieve. folder: of the results (out/evaluation/NAME).
    """
    folder = folder or out / "evaluation" / run.name
    command = ["mtssl", "evaluate-retrieval", "--checkpoint", str(run.products[0]), "--data", str(data)]
    command += ["--split", "test", "--relevance", relevance, "--json", str(folder / "retrieval.json")]
    products = [folder / "retrieval.json"]
    if gallery is not None:
        command += ["--gallery", str(gallery)]
        products.append(gallery)
    return Stage(f"evaluate {run.name}", command, folder, products, needs=("data", run.name))


def abx_stage(
    run: Stage, checkpoint: Path, updates: int, item: Path, data: Path, options: Sequence[str] = ()
) -> Stage:
    """`mtssl evaluate-abx` of every layer of a checkpoint, as JSON in the folder of its training.

    updates: of the checkpoint. options: further options of the command.
    """
    folder = run.folder / "evaluation" / f"abx_{updates}"
    product = folder / f"abx_{updates}.json"
    command = ["mtssl", "evaluate-abx", "--checkpoint", str(checkpoint), "--data", str(data)]
    command += ["--item", str(item), *options, "--json", str(product)]
    return Stage(f"abx {run.name} {updates}", command, folder, [product], needs=("items", run.name))


def items_stage(data: Path, split: str, out: Path) -> Stage:
    """`manifests/aligned_phones.py`, which makes {split}.item of {split}.phones.tsv in the data folder."""
    command = ["python", from_here(ROOT / "manifests" / "aligned_phones.py"), "--data", str(data)]
    command += ["--splits", split, "--alignment", str(data / f"{split}.phones.tsv")]
    # the command writes to the data folder, which the stage must not empty
    return Stage("items", command, out / "items", [data / f"{split}.item"], needs=("data",))


def labels_stage(
    name: str,
    features: str,
    clusters: int,
    data: Path,
    out: Path,
    options: Sequence[str] = (),
    needs: Sequence[str] = ("data",),
) -> Stage:
    """`mtssl make-targets` into the folder out/labels/name. options: further options of the command."""
    folder = out / "labels" / name
    command = ["mtssl", "make-targets", "--data", str(data), "--features", features]
    command += ["--clusters", str(clusters), *options, "--out", str(folder)]
    return Stage(f"labels {name}", command, folder, [folder / "targets.json"], needs=needs)


def json_stage(name: str, command: Sequence[str], product: Path, needs: Sequence[str]) -> Stage:
    """A command that writes its results to a JSON file, alone in its folder."""
    return Stage(name, [*command, "--json", str(product)], product.parent, [product], needs=tuple(needs))


def quality_stage(name: str, labels: Stage, data: Path, splits: str, product: Path) -> Stage:
    """`mtssl measure-targets` of the labels of some splits, with commas between them."""
    command = ["mtssl", "measure-targets", "--labels", str(labels.folder), "--data", str(data)]
    return json_stage(name, [*command, "--splits", splits], product, (labels.name,))


def transcripts_stage(name: str, run: Stage, data: Path, product: Path) -> Stage:
    """`mtssl transcribe` of the test split, with greedy decoding."""
    command = ["mtssl", "transcribe", "--checkpoint", str(run.products[0]), "--data", str(data)]
    return json_stage(name, [*command, "--split", "test"], product, (run.name,))


def text_stage(data: Path, out: Path, products: Sequence[Path], options: Sequence[str], needs: str) -> Stage:
    """`mtssl prepare-text`, which writes transcripts in letters beside the manifests."""
    command = ["mtssl", "prepare-text", "--data", str(data), *options]
    # the command writes to the data folder, which the stage must not empty
    return Stage("text", command, out / "text", products, needs=(needs,))


def curves_stage(
    runs: Mapping[str, Stage], phases: Sequence[Mapping[str, Any]], picture: Path, folder: Path
) -> Stage:
    """`mtssl report`: training curves. runs: legend name -> training. phases: as in `results.phases_of`."""
    command = ["mtssl", "report", *(f"{name}={run.folder}" for name, run in runs.items())]
    for phase in phases:
        command += ["--phase", f"{phase['first_update']}:{title(phase['name'])}"]
    needs = [run.name for run in runs.values()]
    return Stage(folder.name, [*command, "--out", str(picture)], folder, [picture], needs=needs)


def title(phase: str) -> str:
    """The paper's name of a phase, such as VGS+ for `vgsplus`."""
    return PHASES.get(phase, phase)


def hydra_value(text: str) -> str:
    """The value in Hydra's override grammar: in quotes if it has other characters than plain paths have."""
    if PLAIN.fullmatch(text):
        return text
    # backslashes have a meaning only before a quote
    escaped = re.sub(r"(\\*)('|$)", lambda run: 2 * run[1] + ("\\'" if run[2] else ""), text)
    return f"'{escaped}'"


def from_here(path: Path) -> str:
    """The path, relative to the current folder if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
