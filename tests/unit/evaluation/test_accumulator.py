"""RetrievalAccumulator: batches give the same numbers as the whole split, and repeats are dropped."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from fairseq_mtssl.errors import RetrievalError
from fairseq_mtssl.evaluation.retrieval import RetrievalAccumulator, evaluate_retrieval

CAPTIONS, IMAGES = 23, 7
GENERATOR = torch.Generator().manual_seed(3)
SPEECH = torch.randn(CAPTIONS, 5, generator=GENERATOR)
IMAGE = torch.randn(IMAGES, 5, generator=GENERATOR)
OF_CAPTION = torch.arange(CAPTIONS) % IMAGES


def feed(accumulator: RetrievalAccumulator, rows: list[int], labels: bool = False) -> None:
    """Add one batch as in training: captions, and the distinct images among them."""
    images = OF_CAPTION[rows].unique()
    accumulator.add(
        SPEECH[rows],
        IMAGE[images],
        rows,
        torch.searchsorted(images, OF_CAPTION[rows]),
        images,
        (OF_CAPTION[rows] % 3) if labels else None,
    )


@pytest.mark.parametrize("relevance", ["image", "label"])
def test_batches_give_what_the_whole_split_gives(relevance: str) -> None:
    accumulator = RetrievalAccumulator()
    for start in range(0, CAPTIONS, 5):  # the last batch is a partial one
        feed(accumulator, list(range(start, min(start + 5, CAPTIONS))), labels=True)
    groups = (OF_CAPTION, torch.arange(IMAGES))
    if relevance == "label":
        groups = (groups[0] % 3, groups[1] % 3)
    whole = evaluate_retrieval(SPEECH, IMAGE, *groups, split="valid", relevance=relevance)
    assert accumulator.result(relevance) == whole
    assert len(accumulator) == CAPTIONS


def test_repeated_captions_and_images_count_once() -> None:
    once, again = RetrievalAccumulator(), RetrievalAccumulator()
    feed(once, list(range(CAPTIONS)))
    feed(again, list(range(12)))
    feed(again, [3, 4, 11, *range(8, CAPTIONS)])
    feed(again, [0, 0, 0])  # DDP fills its last batch with repeats, even within one
    assert again.result() == once.result()
    assert (again.result().captions, again.result().images) == (CAPTIONS, IMAGES)


def test_ids_are_the_same_in_lists_arrays_and_tensors() -> None:
    accumulator = RetrievalAccumulator()
    for ids in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        accumulator.add(SPEECH[:2], IMAGE[:2], ids, [0, 1], ids)
    assert len(accumulator) == 2
    assert accumulator.result().images == 2


def test_merged_ranks_give_what_one_process_gives() -> None:
    one, ranks = RetrievalAccumulator(), [RetrievalAccumulator() for _ in range(3)]
    feed(one, list(range(CAPTIONS)))
    feed(ranks[0], list(range(0, CAPTIONS, 2)))
    feed(ranks[1], [0, *range(1, CAPTIONS, 2)])
    carried = [pickle.loads(pickle.dumps(rank)) for rank in ranks]  # as a gather would; rank 2 saw nothing
    carried[0].merge(carried[1:])
    assert carried[0].result() == one.result()


def test_reset_forgets_everything() -> None:
    accumulator = RetrievalAccumulator()
    feed(accumulator, [0, 1])
    accumulator.reset()
    assert len(accumulator) == 0
    with pytest.raises(RetrievalError, match="split valid: no caption to rank"):
        accumulator.result()
    feed(accumulator, list(range(CAPTIONS)))
    assert accumulator.result().captions == CAPTIONS


def test_embeddings_are_kept_as_detached_float32_on_the_cpu() -> None:
    accumulator = RetrievalAccumulator()
    speech = SPEECH[:2].half().requires_grad_()
    accumulator.add(speech, IMAGE[:2].bfloat16(), [0, 1], [0, 1], [0, 1])
    for kept in (*accumulator._speech, *accumulator._image):
        assert kept.dtype == torch.float32
        assert kept.device.type == "cpu"
        assert not kept.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption_ids": [0]}, "2 speech rows, but caption_ids has 1"),
        ({"image_index": [0]}, "image_index has 1"),
        ({"labels": ["a"]}, "labels has 1"),
        ({"image_ids": [0, 1, 2]}, "2 image rows, but image_ids has 3"),
        ({"image_index": [0, 2]}, "image_index: 2 is no row of the 2 images"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    batch = {"caption_ids": [0, 1], "image_index": [0, 1], "image_ids": [0, 1], "labels": None, **change}
    with pytest.raises(RetrievalError, match=message):
        RetrievalAccumulator().add(SPEECH[:2], IMAGE[:2], **batch)
