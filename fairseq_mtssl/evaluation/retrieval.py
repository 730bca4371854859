"""Cross-modal retrieval: R@k and median rank in both directions, beside what a random ranking would score.

Definitions, for N captions and M distinct images (the measures of Khorrami et al. 2023, arXiv 2306.02972):

- speech to image: each caption ranks all M images; image to speech: each image ranks all N captions.
- A caption and an image are relevant to each other when their groups are equal. With relevance "image" the
  group is the image id (exactly one relevant image a caption); with "label" it is the label.
- R@k, in percent: a hit if *any* relevant candidate is among the top k; k beyond the candidates means all.
- P@k, in percent, with relevance "label" alone: how many of the top k are relevant, k beyond the candidates
  meaning all. A model that fills the top k with one label has an R@k that equals its R@1 and can lie below
  the R@k of a random ranking. Its P@k equals its R@1, too, and stands beside a chance that is that of R@1 for
  every k.
- Ties take their expectation over every order of the tied candidates (`ranking.py`), so that a constant
  embedding scores exactly chance, whatever k and however many candidates are relevant.
- Median rank: the median over queries of the expected rank of the first relevant candidate, from 1.
- Chance: the same numbers when every candidate ties, i.e. a random ranking.
- A query without any relevant candidate can only miss: it is left out of the mean and counted by name
  (`excluded_captions`, `excluded_images`). It stays a candidate for the other direction.
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
CHUNK_BYTES = 2**24  # similarities held at once, in float64; about three times this in all


@dataclass(frozen=True)
class Scores:
    """One direction. recalls: k -> R@k in percent. median_rank: from 1, halves possible.

    precisions: k -> P@k in percent; empty but for relevance "label".
    """

    recalls: dict[int, float]
    median_rank: float
    precisions: dict[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, float]:
        """`{"r1": …, "r5": …, "r10": …, "median_rank": …}`, then any `"p1": …`, rounded to 6 decimals."""
        row = {f"r{k}": recall for k, recall in self.recalls.items()}
        row |= {"median_rank": self.median_rank}
        row |= {f"p{k}": precision for k, precision in self.precisions.items()}
        return {key: round(value, 6) for key, value in row.items()}


@dataclass(frozen=True)
class RetrievalResult:
    """Both directions, the chance rows, and what they were measured on.

    images, captions: numbers of candidates, M and N.
    excluded_captions, excluded_images: queries without a relevant candidate, not scored.
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
        """What `mtssl evaluate-retrieval --json` writes; recalls and precisions in percent."""
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
        """A table for people: both directions, each with its chance row, and every count."""
        rows = [
            ("speech → image", self.speech_to_image),
            ("  chance", self.chance_speech_to_image),
            ("image → speech", self.image_to_speech),
            ("  chance", self.chance_image_to_speech),
        ]
        ks = list(self.speech_to_image.recalls)
        # P@1 is R@1
        precise = [k for k in self.speech_to_image.precisions if k > 1]
        heads = [*(f"R@{k} %" for k in ks), *(f"P@{k} %" for k in precise)]
        lines = [
            f"split {self.split or '(unnamed)'}: M = {self.images} images, N = {self.captions} captions, "
            f"relevance: same {self.relevance}",
            f"{'':<16}" + "".join(f"{head:>9}" for head in heads) + f"{'median rank':>13}",
        ]
        for name, scores in rows:
            numbers = [*(scores.recalls[k] for k in ks), *(scores.precisions[k] for k in precise)]
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

    speech: (N, D) float, one row a caption; image: (M, D) float, one row a distinct image; their dot products
        are the scores.
    caption_group (N,), image_group (M,): ints; equal groups are relevant to each other (`relevance_groups`).
    ks: the k of R@k and P@k, each >= 1. split: a name that travels into the result; so does relevance, and
        "label" asks for P@k.
    chunk_rows: queries compared at once; by default what keeps a chunk of similarities at 16 MiB.
    Raises: NonFiniteEmbeddingError for NaN or infinity; RetrievalError for shapes, ks, or when no query of a
        direction has a relevant candidate.
    """
    groups = _checked_groups(caption_group, "caption_group"), _checked_groups(image_group, "image_group")
    _check_shapes(speech, image, *groups)
    ks = _checked_ks(ks)
    if chunk_rows is not None and chunk_rows < 1:
        raise RetrievalError(f"chunk_rows: got {chunk_rows}; wanted at least 1")
    sides = exact_scale(speech, "speech"), exact_scale(image, "image")
    precise = relevance == "label"
    forward = _one_direction(sides[0], sides[1], groups[0], groups[1], ks, chunk_rows, precise)
    backward = _one_direction(sides[1], sides[0], groups[1], groups[0], ks, chunk_rows, precise)
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
    """Collects validation batches; a caption or image that comes again (DDP pads its last batch) is dropped.

    Of repeats the first is kept. Embeddings are held on the CPU in float32. It pickles, so ranks can gather
    their accumulators and `merge` them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before a new validation."""
        self._speech: list[Tensor] = []
        self._image: list[Tensor] = []
        # caption id -> (image id, label); image ids as keys. Both in the order of the rows held.
        self._captions: dict[Hashable, tuple[Hashable, Hashable]] = {}
        self._images: dict[Hashable, None] = {}

    def __len__(self) -> int:
        """Captions held."""
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
        """Take one batch.

        speech: (B, D), a row a caption; image: (U, D), a row a distinct image of the batch; any device.
        caption_ids: (B,) names unique in the split (dataset rows). image_ids: (U,) likewise for images.
        image_index: (B,) the row of `image` that belongs to each caption.
        labels: (B,) of the captions, for relevance "label"; None or "" is no label.
        Raises: RetrievalError when the lengths do not fit.
        """
        captions, index, images = _plain(caption_ids), _plain(image_index), _plain(image_ids)
        marks = [None] * len(captions) if labels is None else _plain(labels)
        _check_batch(speech, image, captions, index, images, marks)
        of_caption = [(images[row], mark) for row, mark in zip(index, marks, strict=True)]
        self._take(speech, captions, of_caption, image, images)

    def merge(self, others: Iterable[RetrievalAccumulator]) -> None:
        """Take over what other accumulators hold (those of the other ranks)."""
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
        """Rank everything held. Raises: RetrievalError when nothing is; else as `evaluate_retrieval`."""
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
        of_caption: list[tuple[Hashable, Hashable]],
        image: Tensor,
        images: list[Hashable],
    ) -> None:
        rows = []
        for row, (caption, value) in enumerate(zip(captions, of_caption, strict=True)):
            if caption not in self._captions:
                self._captions[caption] = value
                rows.append(row)
        self._speech.append(_rows(speech, rows))
        rows = []
        for row, image_id in enumerate(images):
            if image_id not in self._images:
                self._images[image_id] = None
                rows.append(row)
        self._image.append(_rows(image, rows))


def _one_direction(
    queries: Tensor,
    candidates: Tensor,
    query_group: np.ndarray,
    candidate_group: np.ndarray,
    ks: Sequence[int],
    chunk_rows: int | None,
    precise: bool,
) -> tuple[Scores, Scores, int] | None:
    """Scores, chance, and how many queries had no relevant candidate; None when that is all of them.

    precise: with precisions.
    """
    scored = np.isin(query_group, candidate_group)
    if not scored.any():
        return None
    kept = torch.from_numpy(np.flatnonzero(scored))
    rows = chunk_rows or max(1, CHUNK_BYTES // (8 * len(candidates)))
    counts, shares = [], []
    for chunk in kept.split(rows):
        asked, groups = queries[chunk], torch.from_numpy(query_group)[chunk]
        compared = compare(asked, candidates, groups, torch.from_numpy(candidate_group))
        counts.append(tie_counts(*compared))
        if precise:
            shares.append(expected_precision(*compared, ks))
    ahead, tied, tied_relevant, relevant = torch.cat(counts, dim=1).numpy()
    found = _scores(ks, ahead, tied, tied_relevant)
    chance = _scores(ks, np.zeros_like(ahead), np.full_like(ahead, len(candidates)), relevant)
    if precise:
        means = [100.0 * float(row.mean()) for row in torch.cat(shares, dim=1).numpy()]
        by_chance = 100.0 * float((relevant / len(candidates)).mean())
        found = replace(found, precisions=dict(zip(ks, means, strict=True)))
        chance = replace(chance, precisions=dict.fromkeys(ks, by_chance))
    return found, chance, int((~scored).sum())


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
    """Those rows alone, detached, on the CPU, float32; a copy, so that the batch can be freed."""
    return embeddings.detach()[rows].to("cpu", torch.float32)


def _plain(values: Sequence[Hashable] | Tensor) -> list:
    """Python objects, so that 3, np.int64(3) and tensor(3) are one id."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _check_batch(
    speech: Tensor, image: Tensor, captions: list, index: list, images: list, labels: list
) -> None:
    wanted = {"caption_ids": captions, "image_index": index, "labels": labels}
    errors = [f"{name} has {len(v)}" for name, v in wanted.items() if len(v) != len(speech)]
    if errors:
        raise RetrievalError(f"{len(speech)} speech rows, but {'; '.join(errors)}; wanted one a caption")
    if len(images) != len(image):
        raise RetrievalError(f"{len(image)} image rows, but image_ids has {len(images)}; wanted one an image")
    outside = [row for row in index if not 0 <= row < len(image)]
    if outside:
        raise RetrievalError(f"image_index: {outside[0]} is no row of the {len(image)} images")
