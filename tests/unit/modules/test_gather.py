"""Negatives from other ranks: two processes must train like one (open_clip #616)."""

from __future__ import annotations

from typing import Any

import gather_two_ranks
import gloo_ranks
import pytest
import torch

from fairseq_mtssl.errors import PairCountError
from fairseq_mtssl.modules.contrastive import gather_pairs, gather_rows, gather_with_grad, world_size

IDS = torch.tensor([0, 1, 2, 0, 1, 3])  # images 0 and 1 lie on both ranks of a 3 + 3 or 4 + 2 batch


CASES = {
    "equal batches": ("margin", [3, 3]),
    "unequal batches": ("scaled", [4, 2]),
    "a rank without rows": ("margin", [5, 0]),
}


def make_case(loss: str, sizes: list[int]) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "loss": loss,
        "sizes": sizes,
        "towers": gather_two_ranks.Towers().state_dict(),
        "speech": torch.randn(sum(sizes), 6),
        "image": torch.randn(sum(sizes), 5),
        "ids": IDS[: sum(sizes)],
    }


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every case and what each of two gloo ranks made of it, in one start of the processes."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: make_case(*case) for name, case in CASES.items()}
    return cases, gloo_ranks.run_cases(gather_two_ranks, cases, folder)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_loss_and_gradients_of_one_process(two_ranks: Any, name: str) -> None:
    case, ranks = two_ranks[0][name], [rank[name] for rank in two_ranks[1]]
    towers = gather_two_ranks.Towers()
    towers.load_state_dict(case["towers"])
    alone = gather_two_ranks.loss_of(case["loss"], *towers(case["speech"], case["image"]), case["ids"])
    alone.backward()
    for rank in ranks:
        # the same float32 sums in another order: a few rounding errors of 1e-7 of each value
        assert torch.allclose(rank["loss"], alone, atol=1e-6)
        for key, parameter in towers.named_parameters():
            assert torch.allclose(rank["gradients"][key], parameter.grad, atol=1e-6), key


@pytest.mark.parametrize("name", CASES)
def test_gathered_rows_come_in_rank_order_in_their_own_dtype(two_ranks: Any, name: str) -> None:
    case = two_ranks[0][name]
    for rank in two_ranks[1]:
        assert torch.equal(rank[name]["gathered"], case["speech"])
        assert torch.equal(rank[name]["half"], case["speech"].to(torch.bfloat16))


@pytest.mark.parametrize("name", CASES)
def test_what_every_rank_sends_back_is_summed(two_ranks: Any, name: str) -> None:
    for rank, size in zip(two_ranks[1], two_ranks[0][name]["sizes"], strict=True):
        assert torch.equal(rank[name]["own_loss"], torch.full((size, 6), 3.0))  # 1 of rank 0, 2 of rank 1


def test_one_process_gathers_nothing() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    assert world_size() == 1
    assert gather_with_grad(x) is x
    assert gather_rows(x)[1] == [3]


def test_pairs_of_one_process_come_back_with_their_mask() -> None:
    speech, image = torch.randn(2, 3, 4)
    got_speech, got_image, same = gather_pairs(speech, image, torch.tensor([7, 8, 7]))
    assert got_speech is speech and got_image is image
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_unpaired_rows_are_refused_before_any_rank_waits() -> None:
    with pytest.raises(PairCountError):
        gather_pairs(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))
