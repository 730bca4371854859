"""Cross-modal retrieval: R@k and median rank in both directions, beside the scores of a random ranking.

Definitions, for N captions and M distinct images (the measures of Khorrami et al. 2023, arXiv 2306.02972):

- speech to image: each caption ranks all M images; image to speech: each image ranks all N captions.
- A caption and an image are relevant to each other when their groups are equal. With relevance "image" the
  group is the image id (exactly one relevant image a caption); with "label" it is the label.
- R@k, in percent: how many queries have *any* relevant candidate among the top k; a k beyond the number of
  candidates means all of them.
- P@k, in percent, only with relevance "label": how many of the top k are relevant. A model that fills the
  top k with images of one label has an R@k equal to its R@1, which can be below the R@k of a random ranking.
  Its P@k equals its R@1 as well, but the chance of P@k is that of R@1 for every k.
- Scores of ties are expectations over all orders of the tied candidates (`ranking.py`), so that a constant
  embedding scores exactly chance, for any k and any number of relevant candidates.
- Median rank: the median over queries of the expected rank of the first relevant candidate, from 1.
- Chance: the same numbers when all candidates tie, which is a random ranking.
- A query without any relevant candidate can only miss: it is left out of the means and counted in
  `excluded_captions` or `excluded_images`. It stays a candidate for the other direction.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import RetrievalError
from fairseq_mtssl.evaluation.ranking import (
    compare,
    exact_scale,
    expected_precision,
    expected_rank,
    hit_probability,
    tie_counts,
)
from fairseq_mtssl.evaluation.relevance import relevance_groups

DEFAULT_KS = (1, 5, 10)
CHUNK_BYTES = 2**24  # float64 similarities held in memory at once; the peak is about three times this


@dataclass(frozen=True)
class Scores:
    """The scores of one direction.

    recalls: R@k in percent by k. median_rank: from 1, possibly a half.
    precisions: P@k in percent by k; empty unless relevance is "label".
    """

    recalls: dict[int, float]
    median_rank: float
    precisions: dict[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, float]:
        """Return `{"r1": …, "r5": …, "r10": …, "median_rank": …}` and any `"p1": …`, with six decimals."""
        row = {f"r{k}": recall for k, recall in self.recalls.items()}
        row |= {"median_rank": self.median_rank}
        row |= {f"p{k}": precision for k, precision in self.precisions.items()}
        return {key: round(value, 6) for key, value in row.items()}


@dataclass(frozen=True)
class RetrievalResult:
    """The scores of both directions, those of chance, and the data on which they were measured.

    images, captions: numbers of candidates, M and N.
    excluded_captions, excluded_images: numbers of queries without a relevant candidate, which are not scored.
    """

    images: int
    captions: int
    split: str
    relevance: str
    speech_to_image: Scores
    image_to_speech: Scores
    chance_speech_to_image: Scores
    chance_image_to_speech: Scores
    excluded_captions: int = 0
    excluded_images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what `mtssl evaluate-retrieval --json` writes; recalls and precisions are in percent."""
        return {
            "images": self.images,
            "captions": self.captions,
            "split": self.split,
            "relevance": self.relevance,
            "speech_to_image": self.speech_to_image.to_json(),
            "image_to_speech": self.image_to_speech.to_json(),
            "chance": {
                "speech_to_image": self.chance_speech_to_image.to_json(),
                "image_to_speech": self.chance_image_to_speech.to_json(),
            },
        }

    def format_table(self) -> str:
        """Return a table to print: both directions, each with its chance row, and all counts."""
        rows = [
            ("speech → image", self.speech_to_image),
            ("  chance", self.chance_speech_to_image),
            ("image → speech", self.image_to_speech),
            ("  chance", self.chance_image_to_speech),
        ]
        ks = list(self.speech_to_image.recalls)
        precision_ks = [k for k in self.speech_to_image.precisions if k > 1]  # P@1 equals R@1
        heads = [*(f"R@{k} %" for k in ks), *(f"P@{k} %" for k in precision_ks)]
        lines = [
            f"split {self.split or '(unnamed)'}: M = {self.images} images, N = {self.captions} captions, "
            f"relevance: same {self.relevance}",
            f"{'':<16}" + "".join(f"{head:>9}" for head in heads) + f"{'median rank':>13}",
        ]
        for name, scores in rows:
            numbers = [*(scores.recalls[k] for k in ks), *(scores.precisions[k] for k in precision_ks)]
            cells = "".join(f"{number:>9.2f}" for number in numbers)
            lines.append(f"{name:<16}{cells}{scores.median_rank:>13.1f}")
        for count, query, candidate in (
            (self.excluded_captions, f"of {self.captions} captions", "image"),
            (self.excluded_images, f"of {self.images} images", "caption"),
        ):
            if count:
                lines.append(f"not scored: {count} {query} without a relevant {candidate}")
        return "\n".join(lines)


def evaluate_retrieval(
    speech: Tensor,
    image: Tensor,
    caption_group: Tensor | np.ndarray | Sequence[int],
    image_group: Tensor | np.ndarray | Sequence[int],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    split: str = "",
    relevance: str = "image",
    chunk_rows: int | None = None,
) -> RetrievalResult:
    """Score the ranking of every caption over the images and of every image over the captions.

    speech: (N, D) float, one row per caption; image: (M, D) float, one row per distinct image; the scores are
        their dot products.
    caption_group (N,), image_group (M,): ints; equal groups are relevant to each other (`relevance_groups`).
    ks: the k of R@k and P@k, each >= 1. split: a name for the result.
    relevance: how the groups were made, for the result; with "label" P@k is measured too.
    chunk_rows: queries compared at once; by default as many as give 16 MiB of similarities.
    Raises: NonFiniteEmbeddingError for NaN or infinity; RetrievalError for shapes or ks that do not fit, and
        if no query of a direction has a relevant candidate.
    """
    groups = _checked_groups(caption_group, "caption_group"), _checked_groups(image_group, "image_group")
    _check_shapes(speech, image, *groups)
    ks = _checked_ks(ks)
    if chunk_rows is not None and chunk_rows < 1:
        raise RetrievalError(f"chunk_rows: got {chunk_rows}; wanted at least 1")
    sides = exact_scale(speech, "speech"), exact_scale(image, "image")
    by_label = relevance == "label"
    forward = _one_direction(*sides, *groups, ks, chunk_rows, by_label)
    backward = _one_direction(*sides[::-1], *groups[::-1], ks, chunk_rows, by_label)
    if forward is None or backward is None:
        raise RetrievalError(
            f"no caption of split {split or '(unnamed)'} shares its {relevance} with any image "
            f"({len(speech)} captions, {len(image)} images). Check that both come from one manifest."
        )
    return RetrievalResult(
        images=len(image),
        captions=len(speech),
        split=split,
        relevance=relevance,
        speech_to_image=forward[0],
        image_to_speech=backward[0],
        chance_speech_to_image=forward[1],
        chance_image_to_speech=backward[1],
        excluded_captions=forward[2],
        excluded_images=backward[2],
    )


class RetrievalAccumulator:
    """Collects the embeddings of validation batches, on the CPU in float32.

    Of a caption or image that comes more than once (DDP pads its last batch), the first is kept. Accumulators
    can be pickled, so that ranks can gather and `merge` them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop all embeddings before a new validation."""
        self._speech: list[Tensor] = []
        self._image: list[Tensor] = []
        # the (image id, label) of each caption id, and the image ids as keys, both in the order of the rows
        self._captions: dict[Hashable, tuple[Hashable, Hashable]] = {}
        self._images: dict[Hashable, None] = {}

    def __len__(self) -> int:
        """Number of captions."""
        return len(self._captions)

    def add(
        self,
        speech: Tensor,
        image: Tensor,
        caption_ids: Sequence[int] | Tensor,
        image_index: Sequence[int] | Tensor,
        image_ids: Sequence[int] | Tensor,
        labels: Sequence[Hashable] | Tensor | None = None,
    ) -> None:
        """Add one batch.

        speech: (B, D), one row per caption; image: (U, D), one row per distinct image; on any device.
        caption_ids: (B,) ids that are unique in the split (dataset rows). image_ids: (U,) likewise for
        images.
        image_index: (B,) the row of `image` that belongs to each caption.
        labels: (B,) labels of the captions for relevance "label"; None or "" is no label.
        Raises: RetrievalError if the lengths do not fit.
        """
        captions, index, images = _plain(caption_ids), _plain(image_index), _plain(image_ids)
        names = [None] * len(captions) if labels is None else _plain(labels)
        _check_batch(speech, image, captions, index, images, names)
        image_and_label = [(images[row], label) for row, label in zip(index, names, strict=True)]
        self._take(speech, captions, image_and_label, image, images)

    def merge(self, others: Iterable[RetrievalAccumulator]) -> None:
        """Add the embeddings of other accumulators, such as those of other ranks."""
        for other in others:
            if len(other):
                self._take(
                    torch.cat(other._speech),
                    list(other._captions),
                    list(other._captions.values()),
                    torch.cat(other._image),
                    list(other._images),
                )

    def result(
        self, relevance: str = "image", *, split: str = "valid", ks: Sequence[int] = DEFAULT_KS
    ) -> RetrievalResult:
        """Evaluate everything added. Raises: RetrievalError if nothing was, else as `evaluate_retrieval`."""
        if not self._captions:
            raise RetrievalError(
                f"split {split}: no caption to rank. Add at least one batch before the result."
            )
        groups = relevance_groups(
            [image_id for image_id, _ in self._captions.values()],
            [label for _, label in self._captions.values()],
            list(self._images),
            relevance,
        )
        speech, image = torch.cat(self._speech), torch.cat(self._image)
        return evaluate_retrieval(speech, image, *groups, ks=ks, split=split, relevance=relevance)

    def _take(
        self,
        speech: Tensor,
        captions: list[Hashable],
        image_and_label: list[tuple[Hashable, Hashable]],
        image: Tensor,
        images: list[Hashable],
    ) -> None:
        self._speech.append(_rows(speech, _add_new(self._captions, captions, image_and_label)))
        self._image.append(_rows(image, _add_new(self._images, images, [None] * len(images))))


def _add_new(known: dict[Hashable, Any], ids: Sequence[Hashable], values: Sequence[Any]) -> list[int]:
    """Add the values of ids that are not known yet, the first of each. Returns: their rows."""
    rows = []
    for row, (each, value) in enumerate(zip(ids, values, strict=True)):
        if each not in known:
            known[each] = value
            rows.append(row)
    return rows


def _one_direction(
    queries: Tensor,
    candidates: Tensor,
    query_group: np.ndarray,
    candidate_group: np.ndarray,
    ks: Sequence[int],
    chunk_rows: int | None,
    with_precision: bool,
) -> tuple[Scores, Scores, int] | None:
    """Return scores, chance, and the number of queries without relevant candidate; None if that is all."""
    scored = np.isin(query_group, candidate_group)
    if not scored.any():
        return None
    kept = torch.from_numpy(np.flatnonzero(scored))
    rows = chunk_rows or max(1, CHUNK_BYTES // (8 * len(candidates)))
    counts, shares = [], []
    for chunk in kept.split(rows):
        groups = torch.from_numpy(query_group)[chunk]
        compared = compare(queries[chunk], candidates, groups, torch.from_numpy(candidate_group))
        counts.append(tie_counts(*compared))
        if with_precision:
            shares.append(expected_precision(*compared, ks))
    ahead, tied, tied_relevant, relevant = torch.cat(counts, dim=1).numpy()
    scores = _scores(ks, ahead, tied, tied_relevant)
    chance = _scores(ks, np.zeros_like(ahead), np.full_like(ahead, len(candidates)), relevant)
    if with_precision:
        means = [100.0 * float(row.mean()) for row in torch.cat(shares, dim=1).numpy()]
        by_chance = 100.0 * float((relevant / len(candidates)).mean())
        scores = replace(scores, precisions=dict(zip(ks, means, strict=True)))
        chance = replace(chance, precisions=dict.fromkeys(ks, by_chance))
    return scores, chance, int((~scored).sum())


def _scores(ks: Sequence[int], ahead: np.ndarray, tied: np.ndarray, tied_relevant: np.ndarray) -> Scores:
    recalls = {k: 100.0 * float(hit_probability(k, ahead, tied, tied_relevant).mean()) for k in ks}
    return Scores(recalls, float(np.median(expected_rank(ahead, tied, tied_relevant))))


def _check_shapes(speech: Tensor, image: Tensor, caption_group: np.ndarray, image_group: np.ndarray) -> None:
    for side, rows, group in (("speech", speech, caption_group), ("image", image, image_group)):
        if rows.ndim != 2 or len(rows) == 0:
            raise RetrievalError(
                f"{side} embeddings: got shape {tuple(rows.shape)}; wanted (rows, D), rows >= 1"
            )
        if len(group) != len(rows):
            raise RetrievalError(
                f"{side} embeddings: {len(rows)} rows for {len(group)} groups; wanted one each"
            )
    if speech.shape[1] != image.shape[1]:
        raise RetrievalError(
            f"embeddings: speech has {speech.shape[1]} dimensions and image {image.shape[1]}; "
            "wanted the same. Take both from one model."
        )


def _checked_groups(group: Tensor | np.ndarray | Sequence[int], name: str) -> np.ndarray:
    array = group.cpu().numpy() if isinstance(group, Tensor) else np.asarray(group)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise RetrievalError(f"{name}: got {array.dtype} of shape {array.shape}; wanted a row of integers")
    return array.astype(np.int64)


def _checked_ks(ks: Sequence[int]) -> list[int]:
    if not ks or any(k < 1 for k in ks):
        raise RetrievalError(f"ks: got {list(ks)}; wanted one or more ranks, each at least 1")
    return sorted(set(ks))


def _rows(embeddings: Tensor, rows: list[int]) -> Tensor:
    """Copy some rows to the CPU as float32, so that the batch can be freed."""
    return embeddings.detach()[rows].to("cpu", torch.float32)


def _plain(values: Sequence[Hashable] | Tensor) -> list:
    """Convert to Python objects, so that 3, np.int64(3) and tensor(3) are one id."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _check_batch(
    speech: Tensor, image: Tensor, captions: list, index: list, images: list, labels: list
) -> None:
    wanted = {"caption_ids": captions, "image_index": index, "labels": labels}
    errors = [f"{name} has {len(v)}" for name, v in wanted.items() if len(v) != len(speech)]
    if errors:
        raise RetrievalError(f"{len(speech)} speech rows, but {'; '.join(errors)}; wanted one per caption")
    if len(images) != len(image):
        raise RetrievalError(
            f"{len(image)} image rows, but image_ids has {len(images)}; wanted one per image"
        )
    outside = [row for row in index if not 0 <= row < len(image)]
    if outside:
        raise RetrievalError(f"image_index: {outside[0]} is no row of the {len(image)} images")
