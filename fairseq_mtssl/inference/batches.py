"""Running a model on batches of items, some of which may turn out to be unusable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from fairseq_mtssl.errors import MtsslError
from fairseq_mtssl.prefetch import read_ahead

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

QUIET_S = 1.0
"""Jobs shorter than this show no progress bar."""


def progress_bar(total: int, task: str) -> tqdm:
    """A progress bar on stderr with the time left."""
    return tqdm(total=total, desc=task, unit="", delay=QUIET_S, dynamic_ncols=True)


def to_device(batch: Any, device: torch.device) -> Any:
    """A tensor, or a dictionary of tensors, on the device."""
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch.to(device)


def run_batches(
    batches: Sequence[Sequence[int]],
    names: Sequence[str],
    load: Callable[[int], Loaded],
    run: Callable[[list[Loaded]], Iterable[Result]],
    task: str,
) -> tuple[dict[int, Result], dict[int, str]]:
    """The result of each item, and what is wrong with the items that have none.

    batches: of items, which are numbers from 0. names: of the items, for errors. load: item -> what the model
    takes; a batch is loaded while the batch before it is run. run: a batch -> a result for each of its items.
    task: the name of the progress bar.
    An MtsslError of `load` concerns its item alone. After an MtsslError of `run`, the items of the batch are
    run one by one, so that those without an error have results.
    """
    results: dict[int, Result] = {}
    errors: dict[int, str] = {}

    def load_batch(items: Sequence[int]) -> list[tuple[int, Loaded]]:
        loaded = []
        for item in items:
            try:
                loaded.append((item, load(item)))
            except MtsslError as error:
                errors[item] = str(error)
        return loaded

    def run_batch(batch: Sequence[tuple[int, Loaded]]) -> None:
        try:
            made = run([loaded for _, loaded in batch])
        except MtsslError as error:
            if len(batch) == 1:
                item = batch[0][0]
                errors[item] = f"{names[item]}: {error}"
                return
            for one in batch:
                run_batch([one])
        else:
            results.update(zip((item for item, _ in batch), made, strict=True))

    with progress_bar(sum(map(len, batches)), task) as bar, torch.inference_mode():
        for batch, loaded in zip(batches, read_ahead(load_batch, batches, ahead=1), strict=True):
            if loaded:
                run_batch(loaded)
            bar.update(len(batch))
    return results, errors
