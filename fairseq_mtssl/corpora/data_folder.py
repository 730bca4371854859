"""What all corpora share: the record `corpus.json` of a data folder, seeded choices, and work in threads.

A data folder is complete when its `corpus.json` has the same request and every file that it lists exists. The
record is removed first and written last, so that a preparation that was interrupted is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.files import sha256_of, write_text

Item = TypeVar("Item")
Result = TypeVar("Result")

RECORD = "corpus.json"


def shuffled(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """Shuffle the items, using `rng.random()` alone, which gives the same numbers in every Python version."""
    keyed = [(rng.random(), index, item) for index, item in enumerate(items)]
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]


def pick(items: Sequence[Item], rng: random.Random) -> Item:
    """Draw one item, using `rng.random()` alone, which gives the same numbers in every Python version."""
    return items[int(rng.random() * len(items))]


def usable_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """Call a function that reads a file on every item, in threads: decoders release Python's lock.

    what: the title of the progress bar, which few items do without.
    Returns: the results in the order of the items.
    """
    with ThreadPoolExecutor(min(16, 4 * usable_cores())) as pool:
        results = pool.map(function, items)
        is_quick = len(items) < 1000
        return list(tqdm(results, what, len(items), unit="file", mininterval=1, disable=is_quick))


def read_record(out: Path) -> dict[str, Any] | None:
    """The folder's `corpus.json`, or None if there is none or it cannot be read."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else None


def is_made(out: Path, request: dict[str, Any]) -> bool:
    """Whether the folder holds the complete corpus of the same request, which is printed."""
    record = read_record(out)
    if record is None or record.get("request") != request:
        return False
    complete = all((out / name).is_file() for name in record["files"])
    if complete:
        print(f"{out} is made already")
    return complete


def begin(out: Path) -> None:
    """Prepare a folder for a corpus: remove the record of an earlier corpus there, then the files it lists.

    Files that no record lists stay.
    Raises: ConfigError if `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError("--out", [f"{out} is a file. Give a folder."])
    record = read_record(out)
    (out / RECORD).unlink(missing_ok=True)
    for name in record["files"] if record else ():
        if not (Path(name).is_absolute() or ".." in Path(name).parts):
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def finish(out: Path, request: dict[str, Any], files: Iterable[str], **facts: Any) -> dict[str, Any]:
    """Write `corpus.json`: the request, facts about the corpus, and every SHA-256; print its folder.

    files: names relative to out. Returns: the record, whose `"sha256"` covers all files together.
    """
    hashes = {name: sha256_of(out / name) for name in sorted(files)}
    total = hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode())
    record = {"request": request, **facts, "sha256": total.hexdigest(), "files": hashes}
    write_text(out / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"made {out}")
    return record


def write_splits(
    out: Path, rows: Mapping[str, Sequence[PairRow]]
) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Write and count the pairs of a corpus whose files are below `out/audio` and `out/images`.

    Returns: every file of the corpus relative to out, and the numbers of captions and images per split.
    """
    files: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for split, captions in rows.items():
        write_pair_manifest(out, split, captions)
        images = sorted({f"images/{row.image}" for row in captions})
        files += [f"{split}.tsv", f"{split}.pairs", *images, *(f"audio/{row.file}" for row in captions)]
        counts[split] = {"captions": len(captions), "images": len(images)}
        print(f"{split}: {len(captions)} captions, {len(images)} images")
    return files, counts


def report_skips(what: str, skipped: Sequence[str]) -> None:
    """Print on standard error how many items were left out, and the names of the first five."""
    if skipped:
        more = f" … and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print(f"skipped {len(skipped)} {what}: {', '.join(skipped[:5])}{more}", file=sys.stderr)
