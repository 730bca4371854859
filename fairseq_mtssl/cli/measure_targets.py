"""`mtssl measure-targets`: how well labels agree with phones, split by split."""

from __future__ import annotations

import argparse
from typing import Any

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
    from fairseq_mtssl.labels.measuring import measure_labels

    measured = measure_labels(args.labels, args.data, args.splits)
    return EvaluationResult(format_table(measured), measured)


def format_table(measured: dict[str, Any]) -> str:
    """A row for each split, and what was left out of it."""
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
