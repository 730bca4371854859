"""`mtssl evaluate-retrieval`: R@k, P@k by label, median rank of a checkpoint on a split, both directions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_mtssl.cli.options import (
    add_model_arguments,
    pick_device,
    positive_int,
    prepare_output,
)
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation

if TYPE_CHECKING:
    import torch

    from fairseq_mtssl.evaluation.retrieval import RetrievalResult
    from fairseq_mtssl.inference.embeddings import EncodedSplit

NAME = "retrieval"
HELP = "measure speech–image retrieval of a checkpoint on a split"
TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of {split}.tsv and {split}.pairs"
    )
    parser.add_argument("--split", default="test", help="split to measure (test)")
    parser.add_argument(
        "--relevance",
        choices=("image", "label"),
        default="image",
        help="what makes an image right for a caption: being its own (image), or having its label",
    )
    parser.add_argument("--gallery", metavar="PNG", help="also draw captions with the images they retrieve")
    parser.add_argument(
        "--gallery-rows", type=positive_int, default=8, metavar="N", help="captions drawn (8)"
    )


def run(args: argparse.Namespace) -> EvaluationResult:
    """Encode the split and score it."""
    if args.gallery:
        prepare_output(args.gallery)
    encoded, result = evaluate(
        args.checkpoint, args.data, args.split, args.relevance, args.batch_size, pick_device(args.device)
    )
    draw = partial(gallery, encoded, args.gallery, args.relevance, args.gallery_rows, args.split)
    return EvaluationResult(result.format_table(), result.to_json(), [draw] if args.gallery else [])


def evaluate(
    checkpoint: str | Path,
    data: str | Path,
    split: str,
    relevance: str,
    batch_size: int,
    device: torch.device,
) -> tuple[EncodedSplit, RetrievalResult]:
    """Embeddings of a split and their retrieval scores. Raises: MtsslError of whatever does not fit."""
    from fairseq_mtssl import checkpoints
    from fairseq_mtssl.evaluation.relevance import relevance_groups
    from fairseq_mtssl.evaluation.retrieval import evaluate_retrieval
    from fairseq_mtssl.inference.embeddings import encode_split

    # no split is the training split here: none is cut, shuffled or perturbed as in training
    loaded = checkpoints.load_model(checkpoint, data=str(data), overrides={"task": {"train_subset": ""}})
    loaded.task.load_dataset(split)
    encoded = encode_split(loaded.model.to(device), loaded.task.dataset(split), batch_size, device)
    manifest = encoded.manifest
    groups = relevance_groups(manifest.image_ids, manifest.labels, manifest.unique_image_ids, relevance)
    return encoded, evaluate_retrieval(
        encoded.speech, encoded.image, *groups, split=split, relevance=relevance
    )


def gallery(encoded: EncodedSplit, out: str | Path, relevance: str, rows: int, split: str) -> Path:
    """Draw captions, taken at equal distances through the split whatever they score, with their best images.

    Raises: ImageError where the manifest has no image files, MissingExtraError without matplotlib.
    """
    import torch

    from fairseq_mtssl.evaluation.ranking import top_candidates
    from fairseq_mtssl.evaluation.relevance import relevance_groups
    from fairseq_mtssl.report.gallery import GalleryRow, draw_gallery

    manifest, images = encoded.manifest, encoded.manifest.unique_image_ids
    caption_group, image_group = relevance_groups(manifest.image_ids, manifest.labels, images, relevance)
    picked = equally_spaced(list(manifest.first_rows.values()), rows)
    best, _ = top_candidates(encoded.speech[torch.tensor(picked)], encoded.image, TOP)
    drawn = [
        GalleryRow(
            caption=manifest.texts[caption] or manifest.caption_ids[caption],
            true_image=manifest.image_path(manifest.image_ids[caption]),
            retrieved=[manifest.image_path(images[i]) for i in ranked],
            hits=[bool(image_group[i] == caption_group[caption]) for i in ranked],
        )
        for caption, ranked in zip(picked, best.tolist(), strict=True)
    ]
    return draw_gallery(drawn, out, title=f"split {split}: the {best.shape[1]} best of {len(images)} images")


def equally_spaced(rows: Sequence[int], count: int) -> list[int]:
    """So many of the rows, or all where there are fewer, at equal distances: chosen whatever they score."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))
