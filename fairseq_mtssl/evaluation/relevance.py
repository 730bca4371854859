"""Decides which captions and images are relevant to each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from fairseq_mtssl.errors import RetrievalError

RELEVANCES = ("image", "label")


def relevance_groups(
    caption_image_ids: Sequence[Hashable],
    caption_labels: Sequence[Hashable] | None,
    image_ids: Sequence[Hashable],
    relevance: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Group captions and images: a caption and an image are relevant to each other if their groups are equal.

    caption_image_ids: (N,) the image id of each caption; image_ids: (M,) the distinct images.
    caption_labels: (N,) the label of each caption; an image has the label of its captions. A caption or image
        without label (None or "") is relevant to nothing. Only used with relevance "label".
    Returns: caption_group (N,), image_group (M,) int64.
    Raises: RetrievalError for an unknown relevance, no label at all, or an image under two labels.
    """
    if relevance == "image":
        number = {image_id: i for i, image_id in enumerate(image_ids)}
        captions = [number.get(image_id, -1) for image_id in caption_image_ids]
        return np.array(captions, dtype=np.int64), np.arange(len(image_ids), dtype=np.int64)
    if relevance != "label":
        raise RetrievalError(f"relevance: got {relevance!r}; wanted one of {', '.join(RELEVANCES)}")
    labels = [None if label is None or label == "" else label for label in caption_labels or []]
    if all(label is None for label in labels):
        raise RetrievalError(
            "relevance label: no caption has a label. "
            "Fill the label column of the manifest, or use relevance image."
        )
    image_label: dict[Hashable, Hashable] = {}
    for image_id, label in zip(caption_image_ids, labels, strict=True):
        known = image_label.setdefault(image_id, label) if label is not None else label
        if known != label:
            raise RetrievalError(
                f"relevance label: image {image_id} has captions with the labels {known!r} and {label!r}; "
                "an image must have one. Correct the label column of the manifest, or use relevance image."
            )
    code: dict[Hashable, int] = {label: i for i, label in enumerate(dict.fromkeys(image_label.values()))}
    captions = [-1 if label is None else code[label] for label in labels]
    images = [code[image_label[i]] if i in image_label else -2 for i in image_ids]
    return np.array(captions, dtype=np.int64), np.array(images, dtype=np.int64)
