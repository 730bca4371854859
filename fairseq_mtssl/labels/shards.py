"""Writing cluster labels: shard by shard, then merged after a check, with their dictionary.

- `{split}_{rank}_{nshard}.km` and, merged, `{split}.km`: one utterance per line, labels separated by spaces;
- `{split}.km.bin`: the merged labels in binary (see km_files);
- `dict.km.txt`: `<label> 1` per line, which is what fairseq's `Dictionary` reads.

Rows are in the order of `{split}.tsv`. Source of the format: fairseq's examples/hubert/simple_kmeans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.features.stored import shard_path, shard_rows
from fairseq_mtssl.files import replacing, write_text
from fairseq_mtssl.labels.folder import DICTIONARY
from fairseq_mtssl.labels.km_files import binary_path, write_binary


def write_labels(path: Path, utterances: Iterable[np.ndarray]) -> int:
    """Write a `.km`, whole or not at all.

    utterances: the labels of each, (T,) int; T may be 0, which gives an empty line.
    Returns: the number of lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = 0
    with replacing(path) as file:
        for labels in utterances:
            file.write(" ".join(map(str, labels.tolist())).encode() + b"\n")
            lines += 1
    return lines


def label_line_errors(path: Path, line: bytes, number: int, frames: int, clusters: int) -> list[str]:
    """Errors of a line of a `.km`, which must have `frames` labels, all smaller than `clusters`."""
    place = f"{path.name} line {number}"
    if not line.endswith(b"\n"):
        return [f"{place}: cut off, with no line end. Delete {path.name} and label again."]
    words = line.split()
    errors = []
    if len(words) != frames:
        errors.append(f"{place}: {len(words)} labels, wanted {frames}. Delete {path.name} and label again.")
    wrong = [word for word in set(words) if not word.isdigit() or int(word) >= clusters]
    if wrong:
        got = ", ".join(sorted(word.decode("ascii", "replace") for word in wrong)[:5])
        errors.append(
            f"{place}: labels {got}, wanted 0 to {clusters - 1}. Delete {path.name} and label again."
        )
    return errors


def merge_labels(
    parts: Path, out: Path, split: str, nshard: int, frames: Sequence[int] | np.ndarray, clusters: int
) -> np.ndarray:
    """Join the shards of a split's labels into `{out}/{split}.km`, checking every line, and write `.km.bin`.

    frames: (N,) the number of labels that each line must have.
    Returns: (clusters,) int64, how often each label occurs.
    Raises: TargetError naming each missing shard, wrong line count, wrong label count and unknown label; in
    that case nothing is written.
    """
    paths = [shard_path(parts, split, rank, nshard, ".km") for rank in range(nshard)]
    errors = [
        f"{path.name} is missing. Write it with --shard {rank}/{nshard}."
        for rank, path in enumerate(paths)
        if not path.is_file()
    ]
    counts = np.zeros(clusters, dtype=np.int64)
    if not errors:
        with replacing(out / f"{split}.km") as merged:
            for rank, path in enumerate(paths):
                rows = shard_rows(len(frames), rank, nshard)
                errors += _append_verified(merged, path, rows, frames, counts)
            if errors:
                raise TargetError(parts, errors)
    if errors:
        raise TargetError(parts, errors)
    km = out / f"{split}.km"
    with replacing(binary_path(km)) as file:
        write_binary(km, file)
    return counts


def _append_verified(
    merged: IO[bytes], path: Path, rows: range, frames: Sequence[int] | np.ndarray, counts: np.ndarray
) -> list[str]:
    """Copy the lines of one shard and count its labels. Returns: the errors of the shard."""
    errors: list[str] = []
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number > len(rows):
                continue
            wrong = label_line_errors(path, line, number, int(frames[rows[number - 1]]), len(counts))
            errors += wrong
            if not wrong:
                counts += np.bincount(np.array(line.split(), dtype=np.int64), minlength=len(counts))
                merged.write(line)
    if number != len(rows):
        got = f"{path.name}: {number} lines, wanted {len(rows)}, one per utterance"
        errors.append(f"{got}. Delete {path.name} and label again.")
    return errors


def write_dictionary(folder: Path, clusters: int) -> None:
    """Write `dict.km.txt`: every label in order, used or not."""
    write_text(folder / DICTIONARY, "".join(f"{label} 1\n" for label in range(clusters)))
