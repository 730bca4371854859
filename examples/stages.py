"""The commands that the examples are made of: manifests, training, evaluation, curves."""

from __future__ import annotations

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.pipeline import Stage

ROOT = Path(__file__).resolve().parents[1]
PLAIN = re.compile(r"[\w./+@%:-]+")
TITLES = {"w2v2": "W2V2", "vgs": "VGS", "vgsplus": "VGS+"}


def example_parser(
    description: str | None, out: str, overrides: str = "for fairseq-hydra-train"
) -> ArgumentParser:
    """The options that every example has. out: the output folder by default; overrides: what they are for."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"output folder ({out})")
    parser.add_argument("--fresh", action="store_true", help="do every stage anew")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    return parser


def manifest_stage(script: str, data: Path, options: Sequence[str] = ()) -> Stage:
    """`manifests/<script>.py` writes the data folder."""
    command = ["python", from_here(ROOT / "manifests" / f"{script}.py"), *options, "--out", str(data)]
    return Stage("data", command, data, [data / "train.pairs"])


def training_stage(
    name: str,
    recipe: str,
    data: Path,
    out: Path,
    overrides: Sequence[str] = (),
    needs: Sequence[str] = ("data",),
) -> Stage:
    """One `fairseq-hydra-train`; its checkpoints, log and composed configuration go to out/name."""
    folder = out / name
    settings = {"task.data": str(data), "checkpoint.save_dir": str(folder)}
    words = [f"{key}={hydra_value(value)}" for key, value in settings.items()]
    return Stage(
        name,
        ["fairseq-hydra-train", "--config-name", recipe, *words, *overrides],
        folder,
        [best_checkpoint(folder)],
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
    """Retrieval of a run's first product, its best checkpoint, on the test split, as JSON.

    gallery: a PNG of answers. folder: of what is written, by default out/evaluation/ and the run's name.
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
    """ABX of every layer of one of a run's checkpoints, as JSON in the run's folder.

    updates: done when it was saved. options: further ones of `mtssl evaluate-abx`.
    """
    folder = run.folder / "evaluation" / f"abx_{updates}"
    product = folder / f"abx_{updates}.json"
    command = ["mtssl", "evaluate-abx", "--checkpoint", str(checkpoint), "--data", str(data)]
    command += ["--item", str(item), *options, "--json", str(product)]
    return Stage(f"abx {run.name} {updates}", command, folder, [product], needs=("items", run.name))


def items_stage(data: Path, split: str, out: Path) -> Stage:
    """`manifests/aligned_phones.py` writes {split}.item from {split}.phones.tsv, both in the data folder."""
    command = ["python", from_here(ROOT / "manifests" / "aligned_phones.py"), "--data", str(data)]
    command += ["--splits", split, "--alignment", str(data / f"{split}.phones.tsv")]
    # the folder is empty: what is written lies among the data
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
    """`mtssl make-targets` into out/labels/name, of every split of a data folder unless options say which."""
    folder = out / "labels" / name
    command = ["mtssl", "make-targets", "--data", str(data), "--features", features]
    command += ["--clusters", str(clusters), *options, "--out", str(folder)]
    return Stage(f"labels {name}", command, folder, [folder / "targets.json"], needs=needs)


def curves_stage(
    runs: Mapping[str, Stage], phases: Sequence[Mapping[str, Any]], picture: Path, folder: Path
) -> Stage:
    """L_AV and L_AUD by update. runs: legend name -> training; phases: as `phases_run` returns them."""
    command = ["mtssl", "report", *(f"{name}={run.folder}" for name, run in runs.items())]
    for phase in phases:
        command += ["--phase", f"{phase['first_update']}:{title(phase['name'])}"]
    needs = [run.name for run in runs.values()]
    return Stage(folder.name, [*command, "--out", str(picture)], folder, [picture], needs=needs)


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint that validated best while VGS was on."""
    return folder / "checkpoint_best.pt"


def title(phase: str) -> str:
    """The paper's name of a phase: `vgsplus` is VGS+."""
    return TITLES.get(phase, phase)


def hydra_value(text: str) -> str:
    """A value as Hydra's override grammar wants it: quoted where it holds more than a plain path does."""
    if PLAIN.fullmatch(text):
        return text
    # a backslash is itself, unless a quote comes after it
    escaped = re.sub(r"(\\*)('|$)", lambda run: 2 * run[1] + ("\\'" if run[2] else ""), text)
    return f"'{escaped}'"


def from_here(path: Path) -> str:
    """The path as one would type it: relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
