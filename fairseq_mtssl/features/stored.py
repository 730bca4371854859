"""Features stored in shards: written utterance by utterance, mapped into memory when they are read.

- `{split}_{rank}_{nshard}.npy`: (rows, D) features of a shard's utterances, one after the other;
- `{split}_{rank}_{nshard}.len`: the number of frames of each utterance, one per line;
- `features.json`: what the features are, written by `mtssl dump-features`.

Rows are in the order of `{split}.tsv`. Source of the format: fairseq's examples/hubert/simple_kmeans.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.files import replacing, write_text

DESCRIPTION = "features.json"
DTYPE = "<f4"
_HEADER_BYTES = 128


def parse_shard(text: str) -> tuple[int, int]:
    """`r/n` -> (r, n), shard r of n counted from 0. Raises: ConfigError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError("--shard", [f"got {text!r}, wanted r/n with 0 ≤ r < n, such as 0/4"])
    return int(match[1]), int(match[2])


def shard_rows(total: int, rank: int, nshard: int) -> range:
    """The rows of a manifest that a shard holds: consecutive ones. Sizes of shards differ by at most one."""
    return range(total * rank // nshard, total * (rank + 1) // nshard)


def shard_path(folder: Path, split: str, rank: int, nshard: int, suffix: str) -> Path:
    """`{folder}/{split}_{rank}_{nshard}{suffix}`."""
    return folder / f"{split}_{rank}_{nshard}{suffix}"


def find_nshard(folder: Path, split: str, suffix: str) -> int:
    """The number of shards in which a split is stored in a folder.

    Raises: TargetError if there is none, if shards of two numbers are mixed, or naming every missing shard.
    """
    pattern = re.compile(rf"{re.escape(split)}_(\d+)_(\d+){re.escape(suffix)}")
    matches = [match for path in folder.glob(f"{split}_*{suffix}") if (match := pattern.fullmatch(path.name))]
    ways = sorted({int(match[2]) for match in matches})
    wanted = f"{split}_{{rank}}_{{nshard}}{suffix}"
    if not ways:
        raise TargetError(folder, [f"holds no {wanted}. Write its shards first, or name another split."])
    if len(ways) > 1:
        raise TargetError(folder, [f"holds {wanted} for nshard {ways}, wanted one. Remove the stale ones."])
    missing = sorted(set(range(ways[0])) - {int(match[1]) for match in matches})
    if missing:
        errors = [
            f"{split}_{rank}_{ways[0]}{suffix} is missing. Write it with --shard {rank}/{ways[0]}."
            for rank in missing
        ]
        raise TargetError(folder, errors)
    return ways[0]


def write_description(folder: Path, about: dict[str, Any]) -> str:
    """Write features.json, which says what the stored features are, into a folder that is made if absent.

    Returns: the description on one line. Raises: TargetError if the folder holds other features.
    """
    path = folder / DESCRIPTION
    if path.is_file() and read_description(folder) != about:
        got = f"holds {read_description(folder)}, now asked for {about}"
        raise TargetError(path, [f"{got}. Give another --out."])
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(about, indent=2) + "\n")
    return json.dumps(about)


def read_description(folder: Path) -> dict[str, Any]:
    """What the features stored in a folder are. Raises: TargetError if the file is absent or no JSON."""
    path = folder / DESCRIPTION
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(path, [f"cannot be read ({error}). Dump the features again."]) from error


class FeatureWriter:
    """Appends utterances to the .npy and .len of one shard, as a context manager.

    Both files appear, complete, when the block ends.
    """

    def __init__(self, folder: Path, split: str, rank: int, nshard: int, dim: int) -> None:
        self.path = shard_path(folder, split, rank, nshard, ".npy")
        self.dim = dim
        self.lengths: list[int] = []

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._replacing = replacing(self.path)
        self._file = self._replacing.__enter__()
        self._file.write(b"\0" * _HEADER_BYTES)
        return self

    def append(self, features: np.ndarray) -> None:
        """Append the next utterance. features: (T, D); T may be 0. Raises: TargetError for another D."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            got = f"utterance {len(self.lengths)}: features of shape {features.shape}, wanted (T, {self.dim})"
            raise TargetError(self.path, [f"{got}. Dump the whole split with one extractor."])
        self._file.write(np.ascontiguousarray(features, dtype=DTYPE).tobytes())
        self.lengths.append(len(features))

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._file.seek(0)
            self._file.write(_npy_header(sum(self.lengths), self.dim))
            # .len first: a shard counts as there when its .npy is
            write_text(self.path.with_suffix(".len"), "".join(f"{length}\n" for length in self.lengths))
        self._replacing.__exit__(*error)


def _npy_header(rows: int, dim: int) -> bytes:
    """A header of format 1.0. Its length is always the same, so that it can be written when rows is known."""
    text = f"{{'descr': '{DTYPE}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    size = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n"


class FeatureShards:
    """The stored features of all utterances of a split, memory-mapped, in the manifest's order.

    lengths: (N,) frames; dim: D. Indexing gives (T, D). Raises: TargetError if a shard is missing, cut short,
    or has another number of rows than its .len says.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        self.nshard = find_nshard(self.folder, split, ".npy")
        self._arrays, lengths, errors = [], [], []
        for rank in range(self.nshard):
            path = shard_path(self.folder, split, rank, self.nshard, ".npy")
            try:
                self._arrays.append(read_features(path))
                lengths.append(read_lengths(path.with_suffix(".len"), len(self._arrays[-1])))
            except TargetError as error:
                errors += error.errors
        dims = sorted({array.shape[1] for array in self._arrays})
        if len(dims) > 1:
            errors.append(f"shards of {split} have {dims} dimensions. Dump them with one extractor.")
        if errors:
            raise TargetError(self.folder, errors)
        self.dim = dims[0]
        self.lengths = np.concatenate(lengths)
        self._rank = np.repeat(np.arange(self.nshard), [len(each) for each in lengths])
        self._start = np.concatenate([np.cumsum(each) - each for each in lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        start = self._start[index]
        return self._arrays[self._rank[index]][start : start + self.lengths[index]]

    def frames(self, index: int) -> np.ndarray:
        """(T, 1, D) of an utterance, a copy in memory: what an `Extractor` of one layer gives."""
        return np.array(self[index])[:, np.newaxis]


def read_features(path: Path) -> np.ndarray:
    """The features of a shard, (rows, D), memory-mapped. Raises: TargetError if unreadable or cut short."""
    try:
        # a file of no rows cannot be mapped
        array = np.load(path, mmap_mode="r" if os.path.getsize(path) > _HEADER_BYTES else None)
    except (OSError, ValueError) as error:
        raise TargetError(path, [f"{path.name} cannot be read ({error}). Dump this shard again."]) from error
    if array.ndim != 2:
        raise TargetError(path, [f"{path.name} holds shape {array.shape}, wanted (rows, D). Dump it again."])
    return array


def read_lengths(path: Path, rows: int) -> np.ndarray:
    """(N,) frames of the utterances of a shard. Raises: TargetError unless they sum to rows."""
    if not path.is_file():
        raise TargetError(path, [f"{path.name} is missing. Dump this shard again."])
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = next((number for number, line in enumerate(lines, 1) if not line.isdecimal()), None)
    if wrong is not None:
        got = f"{path.name} line {wrong}: got {lines[wrong - 1]!r}, wanted a count of frames"
        raise TargetError(path, [f"{got}. Dump this shard again."])
    lengths = np.array([int(line) for line in lines], dtype=np.int64)
    if lengths.sum() != rows:
        got = f"{path.name} sums to {lengths.sum()} frames, {path.stem}.npy has {rows} rows"
        raise TargetError(path, [f"{got}. Dump this shard again."])
    return lengths
