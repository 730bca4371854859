"""Retrieval measures: hand arithmetic, ties against all orders, chance, chunks, memory, errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.retrieval_oracle import enumerate_direction, enumerate_precisions, integer_scores

from fairseq_mtssl.errors import NonFiniteEmbeddingError, RetrievalError
from fairseq_mtssl.evaluation.relevance import relevance_groups
from fairseq_mtssl.evaluation.retrieval import RetrievalResult, evaluate_retrieval

# Captions 0, 1 belong to image 0; 2 to image 1; 3 to image 2. Row i, column j: score of caption i and image
# j, because the images are the unit vectors.
SCORES = torch.tensor([[9.0, 5.0, 1.0], [2.0, 8.0, 1.0], [1.0, 7.0, 0.0], [4.0, 3.0, 2.0]])
CAPTION_GROUP, IMAGE_GROUP = [0, 0, 1, 2], [0, 1, 2]


def by_hand(**options: object) -> RetrievalResult:
    return evaluate_retrieval(SCORES, torch.eye(3), CAPTION_GROUP, IMAGE_GROUP, **options)  # type: ignore[arg-type]


def test_speech_to_image_by_hand() -> None:
    # ranks of the true image: 1, 2, 1, 3
    scores = by_hand(ks=(1, 2, 3)).speech_to_image
    assert scores.recalls == {1: 50.0, 2: 75.0, 3: 100.0}
    assert scores.median_rank == 1.5


def test_image_to_speech_counts_any_caption_of_the_image() -> None:
    # image 0 over captions: 9 2 1 4, its captions 0 and 1: rank 1; image 1: 5 8 7 3, caption 2: rank 2;
    # image 2: 1 1 0 2, caption 3: rank 1
    scores = by_hand(ks=(1, 2)).image_to_speech
    assert scores.recalls == {1: pytest.approx(200 / 3), 2: 100.0}
    assert scores.median_rank == 1.0


def test_chance_row_by_hand() -> None:
    result = by_hand(ks=(1, 2))
    # one relevant image of three; the expected rank of one among three is 2
    assert result.chance_speech_to_image.recalls == {1: pytest.approx(100 / 3), 2: pytest.approx(200 / 3)}
    assert result.chance_speech_to_image.median_rank == 2.0
    # images with 2, 1, 1 captions of four: R@1 1/2, 1/4, 1/4; R@2 1 - 1/6, 1/2, 1/2; ranks 5/3, 5/2, 5/2
    chance = result.chance_image_to_speech
    assert chance.recalls == {1: pytest.approx(100 / 3), 2: pytest.approx(100 * (5 / 6 + 1) / 3)}
    assert chance.median_rank == 2.5


@pytest.mark.parametrize("shape", [(3, 4), (40, 12), (1, 1), (257, 33), (2, 33), (1, 97)])
@pytest.mark.parametrize("relevance", ["image", "label"])
def test_a_constant_embedding_scores_exactly_chance(shape: tuple[int, int], relevance: str) -> None:
    captions, images = shape
    generator = np.random.default_rng(captions)
    of_caption = generator.integers(0, images, captions)
    of_image = np.arange(images)
    if relevance == "label":
        of_caption, of_image = of_caption % 5, of_image % 5
    # products of these values have rounding errors, and float32 kernels add in another order at the edge of
    # a matrix (seen for 2 x 33 rows of 77), so that equal embeddings would not tie
    constant = torch.linspace(-1.1, 1.3, 77) + 0.01 * torch.randn(
        77, generator=torch.Generator().manual_seed(0)
    )
    result = evaluate_retrieval(
        constant.expand(captions, -1),
        constant.expand(images, -1),
        of_caption,
        of_image,
        relevance=relevance,
    )
    assert result.speech_to_image == result.chance_speech_to_image
    assert result.image_to_speech == result.chance_image_to_speech


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_number_agrees_with_enumerating_the_orders_of_the_ties(data: st.DataObject) -> None:
    captions, images = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    # small integers give many ties and exact products
    vector = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    speech = data.draw(st.lists(vector, min_size=captions, max_size=captions))
    image = data.draw(st.lists(vector, min_size=images, max_size=images))
    group = st.integers(0, 2)
    of_caption = data.draw(st.lists(group, min_size=captions, max_size=captions))
    of_image = data.draw(st.lists(group, min_size=images, max_size=images))
    if not set(of_caption) & set(of_image):
        of_caption[0] = of_image[0]
    ks = (1, 2, 4)
    result = evaluate_retrieval(
        torch.tensor(speech).float(),
        torch.tensor(image).float(),
        of_caption,
        of_image,
        ks=ks,
        relevance="label",
        chunk_rows=data.draw(st.integers(1, 6)),
    )
    relevant = [[c == i for i in of_image] for c in of_caption]
    transposed = [list(column) for column in zip(*relevant, strict=True)]
    flat = [[0] * images] * captions, [[0] * captions] * images
    for scores, *asked in (
        (result.speech_to_image, integer_scores(speech, image), relevant),
        (result.image_to_speech, integer_scores(image, speech), transposed),
        (result.chance_speech_to_image, flat[0], relevant),
        (result.chance_image_to_speech, flat[1], transposed),
    ):
        oracle = enumerate_direction(*asked, ks)
        assert scores.precisions == pytest.approx(enumerate_precisions(*asked, ks), abs=1e-9)
        # float64 sums of exact fractions
        assert scores.recalls == pytest.approx(oracle[0], abs=1e-9)
        assert scores.median_rank == pytest.approx(oracle[1], abs=1e-9)


def test_chunk_size_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    speech, image = torch.randn(53, 19, generator=generator), torch.randn(17, 19, generator=generator)
    of_caption = torch.arange(53) % 17
    whole = evaluate_retrieval(speech, image, of_caption, torch.arange(17), chunk_rows=1000)
    for chunk_rows in (1, 7, 53, None):
        assert evaluate_retrieval(speech, image, of_caption, torch.arange(17), chunk_rows=chunk_rows) == whole


def test_k_beyond_the_candidates_means_all_of_them() -> None:
    result = by_hand(ks=(1, 5, 10))
    assert result.speech_to_image.recalls[5] == result.speech_to_image.recalls[10] == 100.0
    assert result.chance_image_to_speech.recalls[10] == 100.0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_the_embeddings_does_not_matter(scale: float) -> None:
    # products of 1e-60 would underflow to ties, those of 1e60 overflow
    result = evaluate_retrieval(SCORES * scale, torch.eye(3) * scale, CAPTION_GROUP, IMAGE_GROUP, ks=(1, 2))
    assert result == by_hand(ks=(1, 2))


def test_half_precision_embeddings_are_accepted() -> None:
    result = evaluate_retrieval(SCORES.half(), torch.eye(3).bfloat16(), CAPTION_GROUP, IMAGE_GROUP, ks=(1, 2))
    assert result == by_hand(ks=(1, 2))


def test_all_zero_embeddings_score_chance() -> None:
    result = evaluate_retrieval(torch.zeros(4, 2), torch.zeros(3, 2), CAPTION_GROUP, IMAGE_GROUP)
    assert result.speech_to_image == result.chance_speech_to_image


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_errors_that_name_the_row(bad: float) -> None:
    broken = SCORES.clone()
    broken[2, 1] = bad
    with pytest.raises(
        NonFiniteEmbeddingError, match=r"speech embeddings: 1 of 4 rows .*first: row 2"
    ) as caught:
        evaluate_retrieval(broken, torch.eye(3), CAPTION_GROUP, IMAGE_GROUP)
    assert caught.value.bad_rows == [2]
    with pytest.raises(NonFiniteEmbeddingError, match="image embeddings"):
        evaluate_retrieval(SCORES, torch.eye(3) * bad, CAPTION_GROUP, IMAGE_GROUP)


def test_queries_without_relevant_candidate_are_left_out_and_counted() -> None:
    # caption 3 and image 2 have groups that nothing else has
    result = evaluate_retrieval(SCORES, torch.eye(3), [0, 0, 1, 7], [0, 1, 8], ks=(1,))
    assert (result.excluded_captions, result.excluded_images) == (1, 1)
    assert result.speech_to_image.recalls == {1: pytest.approx(200 / 3)}  # ranks 1, 2, 1
    assert result.image_to_speech.recalls == {1: 50.0}  # ranks 1, 2
    assert result.captions == 4
    table = result.format_table()
    assert "not scored: 1 of 4 captions without a relevant image" in table
    assert "not scored: 1 of 3 images without a relevant caption" in table


def test_no_relevant_pair_at_all_is_refused() -> None:
    with pytest.raises(RetrievalError, match="no caption of split test shares its label with any image"):
        evaluate_retrieval(SCORES, torch.eye(3), [5, 5, 5, 5], IMAGE_GROUP, split="test", relevance="label")


@pytest.mark.parametrize(
    ("speech", "image", "groups", "message"),
    [
        (
            torch.ones(4, 3),
            torch.ones(3, 2),
            (CAPTION_GROUP, IMAGE_GROUP),
            "speech has 3 dimensions and image 2",
        ),
        (torch.ones(4, 3), torch.ones(3, 3), ([0, 1], IMAGE_GROUP), "4 rows for 2 groups"),
        (torch.ones(0, 3), torch.ones(3, 3), ([], IMAGE_GROUP), "caption_group"),
        (torch.ones(4), torch.ones(3, 3), (CAPTION_GROUP, IMAGE_GROUP), r"got shape \(4,\)"),
        (torch.ones(4, 3), torch.ones(3, 3), ([0.5] * 4, IMAGE_GROUP), "row of integers"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    speech: torch.Tensor, image: torch.Tensor, groups: tuple[list, list], message: str
) -> None:
    with pytest.raises(RetrievalError, match=message):
        evaluate_retrieval(speech, image, *groups)


@pytest.mark.parametrize("options", [{"ks": ()}, {"ks": (0, 1)}, {"chunk_rows": 0}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(RetrievalError, match="at least 1"):
        by_hand(**options)


def test_json_has_exactly_the_promised_keys_and_survives_a_round_trip() -> None:
    written = json.loads(json.dumps(by_hand(split="test").to_json()))
    row = {"r1", "r5", "r10", "median_rank"}
    assert list(written) == [
        "images",
        "captions",
        "split",
        "relevance",
        "speech_to_image",
        "image_to_speech",
        "chance",
    ]
    assert (written["images"], written["captions"]) == (3, 4)
    assert (written["split"], written["relevance"]) == ("test", "image")
    assert set(written["chance"]) == {"speech_to_image", "image_to_speech"}
    for scores in (written["speech_to_image"], written["image_to_speech"], *written["chance"].values()):
        assert set(scores) == row
    assert written["speech_to_image"]["r1"] == 50.0
    assert written["chance"]["speech_to_image"]["r1"] == 33.333333


def one_label_at_the_top(relevance: str) -> RetrievalResult:
    """Twelve images of each of ten labels. Of ten captions, one a label, three find the images of their own
    label first, the others those of another."""
    found = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9, 3])
    images = torch.eye(10).repeat_interleave(12, dim=0)
    return evaluate_retrieval(
        torch.eye(10)[found], images, range(10), np.arange(10).repeat(12), split="test", relevance=relevance
    )


def test_precision_shows_what_recall_by_label_hides() -> None:
    scores, chance = (
        one_label_at_the_top("label").speech_to_image,
        one_label_at_the_top("label").chance_speech_to_image,
    )
    # three of ten captions have the right label in all of the first ten places; 65 % would by chance in one
    assert scores.recalls[1] == scores.recalls[10] == pytest.approx(30.0)
    assert chance.recalls[10] > 60.0
    assert scores.precisions == {1: pytest.approx(30.0), 5: pytest.approx(30.0), 10: pytest.approx(30.0)}
    assert chance.precisions == {1: pytest.approx(10.0), 5: pytest.approx(10.0), 10: pytest.approx(10.0)}


def test_precision_is_printed_and_stored_for_labels_alone() -> None:
    by_label, by_image = one_label_at_the_top("label"), one_label_at_the_top("image")
    table, other = by_label.format_table().splitlines(), by_image.format_table()
    assert table[1].replace(" %", "").split() == ["R@1", "R@5", "R@10", "P@5", "P@10", "median", "rank"]
    # by chance the first relevant of 12 among 120 is expected at place 121 / 13
    assert table[3].split()[-3:] == ["10.00", "10.00", "9.3"]
    assert "P@" not in other
    row = by_label.to_json()["speech_to_image"]
    assert list(row) == ["r1", "r5", "r10", "median_rank", "p1", "p5", "p10"]
    assert (row["p10"], by_label.to_json()["chance"]["image_to_speech"]["p10"]) == (30.0, 10.0)
    assert set(by_image.to_json()["speech_to_image"]) == {"r1", "r5", "r10", "median_rank"}


def test_table_names_the_split_the_counts_and_both_chance_rows() -> None:
    table = by_hand(split="test").format_table()
    assert "split test: M = 3 images, N = 4 captions, relevance: same image" in table
    assert table.count("chance") == 2
    assert "50.00" in table
    assert "not scored" not in table


def test_groups_by_image_join_each_caption_to_its_image() -> None:
    captions, images = relevance_groups(["b", "a", "b"], None, ["a", "b", "lonely"], "image")
    assert captions.tolist() == [1, 0, 1]
    assert images.tolist() == [0, 1, 2]


def test_groups_by_label_join_every_image_of_the_label() -> None:
    captions, images = relevance_groups(["x", "y", "z"], ["7", "3", "7"], ["z", "y", "x"], "label")
    assert captions.tolist() == [0, 1, 0]
    assert images.tolist() == [0, 1, 0]


def test_rows_without_a_label_are_relevant_to_nothing() -> None:
    captions, images = relevance_groups(["x", "y", "x"], ["7", "", None], ["x", "y", "unseen"], "label")
    assert captions.tolist() == [0, -1, -1]
    assert images.tolist() == [0, -2, -2]


@pytest.mark.parametrize(
    ("labels", "relevance", "message"),
    [
        (["", ""], "label", "no caption has a label"),
        (None, "label", "no caption has a label"),
        (["7", "3"], "label", "image x has captions with the labels '7' and '3'"),
        (["7", "7"], "speaker", "got 'speaker'; wanted one of image, label"),
    ],
)
def test_undefined_relevance_is_refused(labels: list | None, relevance: str, message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        relevance_groups(["x", "x"], labels, ["x"], relevance)


def test_25k_captions_by_5k_images_fit_in_one_gigabyte() -> None:
    # D is small to save time; the memory of embeddings at D = 768 is added below. A new process has its own
    # peak memory.
    program = """
import resource, torch
from fairseq_mtssl.evaluation.retrieval import evaluate_retrieval
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.manual_seed(0)
speech, image = torch.randn(25_000, 16), torch.randn(5_000, 16)
evaluate_retrieval(speech, image, torch.arange(25_000) % 5_000, range(5_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown_kib = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    embeddings_768_bytes = (25_000 + 5_000) * 768 * (4 + 8 + 8)  # float32, float64, and a scaled float64 copy
    assert grown_kib * 1024 + embeddings_768_bytes < 1e9
