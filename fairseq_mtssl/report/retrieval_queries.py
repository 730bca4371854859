"""Chooses captions and images of a split for galleries, with the candidates that they retrieve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.data.audio import read_audio, to_pcm16
from fairseq_mtssl.data.manifest import PairManifest
from fairseq_mtssl.errors import ImageError
from fairseq_mtssl.evaluation.ranking import compare, exact_scale, expected_rank, tie_counts, top_candidates
from fairseq_mtssl.evaluation.relevance import relevance_groups
from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.report.gallery import GalleryRow, draw_gallery
from fairseq_mtssl.report.inline import PICTURE_PX, audio_uri, picture_uri
from fairseq_mtssl.report.retrieval_gallery import Answer, Clip, Picture, Query

TOP = 5
MOST_IMAGES = 8  # the answers to an image are sounds, which make the page large


@dataclass
class Gallery:
    """The queries of both directions. absent: ids of images that cannot be shown -> the reason."""

    captions: list[Query]
    images: list[Query]
    absent: dict[str, str] = field(default_factory=dict)


def build_gallery(
    manifest: PairManifest,
    speech: Tensor,
    image: Tensor,
    relevance: str,
    count: int,
    max_samples: int | None = None,
) -> Gallery:
    """Choose captions at equal distances in the split, regardless of their scores, and some of their images.

    speech: (N, D), a row for each caption; image: (M, D), a row for each image id; float32 on the CPU.
    relevance: `image` or `label`, which decides which answers are right. count: the number of captions, each
    of another image; at most MOST_IMAGES of these images are queries. max_samples: the length to which the
    model cuts clips.
    Raises: AudioError for a caption that cannot be read.
    """
    image_ids = manifest.unique_image_ids
    groups = relevance_groups(manifest.image_ids, manifest.labels, image_ids, relevance)
    items = _Items(manifest, max_samples)
    rows = equally_spaced(list(manifest.first_rows.values()), count)
    place = {image_id: row for row, image_id in enumerate(image_ids)}
    images = [place[manifest.image_ids[row]] for row in equally_spaced(rows, MOST_IMAGES)]
    captions = []
    for row, (best, rank, score) in zip(rows, _retrieve(speech, image, *groups, rows), strict=True):
        answers = [Answer(items.picture(image_ids[i]), shown, right) for i, shown, right in best]
        own = items.picture(manifest.image_ids[row])
        captions.append(Query(items.clip(row), answers, rank, score, len(image_ids), own))
    asked = []
    for row, (best, rank, score) in zip(images, _retrieve(image, speech, *groups[::-1], images), strict=True):
        answers = [Answer(items.clip(i), shown, right) for i, shown, right in best]
        asked.append(Query(items.picture(image_ids[row]), answers, rank, score, len(manifest)))
    return Gallery(captions, asked, items.absent)


def draw_retrieved(
    manifest: PairManifest,
    speech: Tensor,
    image: Tensor,
    relevance: str,
    count: int,
    out: str | Path,
    title: str,
) -> Path:
    """Draw the captions of `build_gallery` with their best images into a PNG. Returns: out.

    Raises: ImageError where the manifest has no image files, MissingExtraError without matplotlib.
    """
    images = manifest.unique_image_ids
    groups = relevance_groups(manifest.image_ids, manifest.labels, images, relevance)
    rows = equally_spaced(list(manifest.first_rows.values()), count)
    drawn = [
        GalleryRow(
            caption=manifest.texts[row] or manifest.caption_ids[row],
            true_image=manifest.image_path(manifest.image_ids[row]),
            retrieved=[manifest.image_path(images[i]) for i, _, _ in best],
            hits=[right for _, _, right in best],
        )
        for row, (best, *_) in zip(rows, _retrieve(speech, image, *groups, rows), strict=True)
    ]
    return draw_gallery(drawn, out, f"{title}: the {min(TOP, len(images))} best of {len(images)} images")


def equally_spaced(rows: Sequence[int], count: int) -> list[int]:
    """Choose `count` of the rows at equal distances, or all if there are fewer."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


Retrieved = tuple[list[tuple[int, float, bool]], float | None, float | None]
"""(candidate, score, is right) of the best; then rank and score of the best right candidate, if any."""


def _retrieve(
    queries: Tensor, candidates: Tensor, query_group: np.ndarray, candidate_group: np.ndarray, rows: list[int]
) -> list[Retrieved]:
    """The best candidates of some rows of the queries among all candidates."""
    asked, groups = queries[torch.tensor(rows)], torch.from_numpy(query_group[rows])
    order, scores = top_candidates(asked, candidates, TOP)
    # (Q, D), (C, D) -> (4, Q); both are scaled by powers of two, which changes no rank
    compared = compare(
        exact_scale(asked, "query"),
        exact_scale(candidates, "candidate"),
        groups,
        torch.from_numpy(candidate_group),
    )
    counts = tie_counts(*compared).numpy()
    retrieved: list[Retrieved] = []
    for query, (best, scored) in enumerate(zip(order.tolist(), scores.tolist(), strict=True)):
        right = candidate_group == query_group[rows[query]]
        shown = [(i, score, bool(right[i])) for i, score in zip(best, scored, strict=True)]
        if not right.any():
            retrieved.append((shown, None, None))
            continue
        rank = expected_rank(*(counts[:3, query : query + 1]))[0]
        relevant = candidates[torch.from_numpy(np.flatnonzero(right))].double()
        retrieved.append((shown, float(rank), float((relevant @ asked[query].double()).max())))
    return retrieved


class _Items:
    """The clips and images of a split. Each file is read once."""

    def __init__(self, manifest: PairManifest, max_samples: int | None) -> None:
        self.manifest = manifest
        self.max_samples = max_samples
        self.absent: dict[str, str] = {}
        self.clip, self.picture = cache(self._clip), cache(self._picture)

    def _clip(self, row: int) -> Clip:
        manifest = self.manifest
        wav = read_audio(manifest.audio.audio_path(row), max_samples=self.max_samples, resample=True)
        uri, seconds = audio_uri(to_pcm16(wav), SAMPLE_RATE_HZ), len(wav) / SAMPLE_RATE_HZ
        text, label, speaker = manifest.texts[row], manifest.labels[row], manifest.speakers[row]
        return Clip(manifest.caption_ids[row], text, uri, seconds, label, speaker)

    def _picture(self, image_id: str) -> Picture:
        label = self.manifest.image_label(image_id)
        try:
            uri, side = picture_uri(self.manifest.image_path(image_id), PICTURE_PX)
        except ImageError as error:  # models of region features do not need the files
            self.absent[image_id] = str(error)
            return Picture(image_id, None, label=label)
        return Picture(image_id, uri, side, label)
