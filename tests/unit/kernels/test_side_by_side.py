"""Tiles of work on several cores: each on one, results in order, nothing else changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from fairseq_mtssl.kernels.side_by_side import shares, side_by_side, tiles


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_as_many_run_at_once_as_torch_has_threads_and_each_on_one() -> None:
    together = threading.Barrier(3)  # which all three must reach

    def work(item: int) -> tuple[int, int]:
        together.wait(timeout=20)
        return item, torch.get_num_threads()

    assert side_by_side(work, [7, 8, 9]) == [(7, 1), (8, 1), (9, 1)]
    assert torch.get_num_threads() == 3


def test_threads_begun_later_have_all_of_torchs_threads() -> None:
    side_by_side(lambda item: item, [1, 2])
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [3]


@pytest.mark.parametrize("items", [1, 4])
def test_no_gradients_are_recorded_and_inference_tensors_may_be_written(items: int) -> None:
    weight = torch.ones(2, requires_grad=True)
    assert not any(each.requires_grad for each in side_by_side(lambda n: weight * n, range(items)))
    with torch.inference_mode():
        out = torch.zeros(items)
        side_by_side(lambda n: out[n : n + 1].add_(n), range(items))
    assert out.tolist() == list(range(items))


def test_an_error_in_a_tile_reaches_the_caller() -> None:
    with pytest.raises(RuntimeError, match="size"):
        side_by_side(lambda n: torch.ones(2) @ torch.ones(n), [2, 3, 2])


def test_shares_are_neighbours_and_cover_all() -> None:
    for count in range(1, 9):
        parts = shares(count)
        assert len(parts) == min(3, count)
        assert [item for part in parts for item in range(count)[part]] == list(range(count))


@pytest.mark.parametrize(
    ("count", "most"), [(1, 5), (5, 5), (7, 1), (47, 10), (3000, 1024), (100, 1000), (30, 1000)]
)
def test_tiles_are_alike_and_as_many_for_each_core(count: int, most: int) -> None:
    found = tiles(count, most)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])] and found[-1][1] == count
    lengths = [stop - start for start, stop in found]
    assert max(lengths) <= most and len(set(lengths[:-1])) <= 1
    if count * 32 <= most:
        assert len(found) == 1
    elif count >= 3 * 3:
        assert len(found) % 3 == 0 or max(lengths) * 3 > count
