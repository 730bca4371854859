"""`mtssl measure-targets`: how well labels agree with phones, split by split."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation

NAME = "targets"
HELP = "measure labels against phone alignments: phone purity, cluster purity, PNMI"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("--labels", required=True, metavar="DIR", help="folder that make-targets wrote")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of {split}.tsv and {split}.phones.tsv"
    )
    parser.add_argument("--splits", metavar="A,B", help="splits to measure (those that have phones)")


def run(args: argparse.Namespace) -> EvaluationResult:
    """Measure every split."""
    measured = measure_targets(args.labels, args.data, args.splits)
    return EvaluationResult(format_table(measured), measured)


def measure_targets(labels: str | Path, data: str | Path, names: str | None = None) -> dict[str, Any]:
    """What --json writes: rate_hz, clusters, source, and the quality of each split.

    Raises: TargetError for labels or phones that do not fit, ConfigError if no split has both.
    """
    from fairseq_mtssl.cli import target_sources
    from fairseq_mtssl.data.manifest import read_audio_manifest
    from fairseq_mtssl.evaluation.label_quality import measure, read_phones
    from fairseq_mtssl.labels.folder import read_targets

    targets = read_targets(labels)
    phones = {name: Path(data) / f"{name}.phones.tsv" for name in targets.about["splits"]}
    found = [name for name, path in phones.items() if path.is_file()]
    if names is not None:
        found = target_sources.find_splits(data, names)
        absent = [name for name in found if name not in phones]
        if absent:
            raise ConfigError("--splits", [f"{name!r} has no labels in {labels}" for name in absent])
    if not found:
        wanted = ", ".join(path.name for path in phones.values())
        raise ConfigError("--data", [f"{data} has none of {wanted}; write phone alignments there"])
    splits = {}
    for name in found:
        sizes = read_audio_manifest(Path(data) / f"{name}.tsv").sizes
        quality, counted = measure(
            targets.labels(name, sizes),
            target_sources.utterance_ids(data, name),
            read_phones(phones[name]),
            rate_hz=targets.rate_hz,
            clusters=targets.clusters,
        )
        splits[name] = {
            **asdict(quality),
            "uncovered_frames": counted.uncovered,
            "unaligned_utterances": counted.unaligned,
        }
    about = targets.about
    shown = {"rate_hz": targets.rate_hz, "clusters": targets.clusters, "source": about.get("source")}
    return {**shown, "splits": splits}


def format_table(measured: dict[str, Any]) -> str:
    """A row a split, and what was left out of it."""
    numbers = f"{'frames':>10} {'phones':>7} {'labels':>7} {'phone pur.':>11} {'clust. pur.':>11} {'PNMI':>7}"
    lines = [f"{'split':<10} {numbers}"]
    for name, row in measured["splits"].items():
        lines.append(
            f"{name:<10} {row['frames']:>10} {row['phones']:>7} {row['clusters']:>7} "
            f"{row['phone_purity']:>11.4f} {row['cluster_purity']:>11.4f} {row['pnmi']:>7.4f}"
        )
        if row["uncovered_frames"] or row["unaligned_utterances"]:
            lines.append(
                f"  left out of {name}: {row['uncovered_frames']} frames in no phone, "
                f"{row['unaligned_utterances']} utterances without phones"
            )
    return "\n".join(lines)


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))
