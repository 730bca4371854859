"""Runs a model on rows in batches, which a thread reads ahead; errors are collected row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from tqdm import tqdm

from fairseq_mtssl.errors import MtsslError
from fairseq_mtssl.prefetch import read_ahead

Item = TypeVar("Item")
Result = TypeVar("Result")

QUIET_S = 1.0  # jobs shorter than this show no bar


def progress_bar(total: int, what: str) -> tqdm:
    """A progress bar on stderr with the time left."""
    return tqdm(total=total, desc=what, unit="", delay=QUIET_S, dynamic_ncols=True)


def run_rows(
    batches: Sequence[Sequence[int]],
    read: Callable[[int], Item],
    run: Callable[[list[Item]], Sequence[Result]],
    names: Sequence[object],
    what: str,
) -> tuple[dict[int, Result], dict[int, str]]:
    """Results by row, and errors by row: of rows that cannot be read or that the model refuses.

    batches: of rows. read: the item of a row, or an MtsslError that names it. run: a result for each of the
    items, or an MtsslError, after which the rows of the batch are run one by one. names: of all rows, for
    errors of run. what: the title of the progress bar.
    """
    results: dict[int, Result] = {}
    errors: dict[int, str] = {}

    def load(rows: Sequence[int]) -> list[tuple[int, Item]]:
        loaded = []
        for row in rows:
            try:
                loaded.append((row, read(row)))
            except MtsslError as error:
                errors[row] = str(error)
        return loaded

    def work(loaded: Sequence[tuple[int, Item]]) -> None:
        try:
            found = run([item for _, item in loaded])
        except MtsslError as error:
            if len(loaded) == 1:
                row = loaded[0][0]
                errors[row] = f"{names[row]}: {error}"
                return
            for one in loaded:  # the model refuses the batch for one of its rows: find which
                work([one])
        else:
            results.update(zip((row for row, _ in loaded), found, strict=True))

    with progress_bar(len(names), what) as bar, torch.inference_mode():
        for batch, loaded in zip(batches, read_ahead(load, batches, ahead=1), strict=True):
            if loaded:
                work(loaded)
            bar.update(len(batch))
    return results, errors
