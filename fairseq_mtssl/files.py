"""Writes files atomically, and computes their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fairseq_mtssl.errors import ConfigError


@contextmanager
def replacing(path: Path, is_shared: bool = False) -> Iterator[IO[bytes]]:
    """Open a new binary file that replaces `path` when the block ends, and is removed if the block fails.

    A process that is killed leaves `path` unchanged and a file `{name}.part`, which the next attempt
    overwrites. is_shared: other processes may write the same path at the same time; each uses its own
    `.part`.
    """
    tail = f".{uuid.uuid4().hex}.part" if is_shared else ".part"
    partial = path.with_name(path.name + tail)
    try:
        with open(partial, "wb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises: OSError."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Raises: OSError."""
    write_bytes(path, text.encode("utf-8"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises: OSError."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def prepare_output(path: str | Path) -> Path:
    """Make the folder of a file that a long job will write. Raises: ConfigError where that cannot be."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(str(path), ["is a folder; give the path of the file to write"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"its folder cannot be made ({error.strerror})"
        raise ConfigError(str(path), [f"{got}; give another"]) from error
    return path


def write_output(path: str | Path, text: str) -> Path:
    """Write a file that the user named, whole or not at all.

    Returns: its path. Raises: ConfigError if it cannot be written.
    """
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be written ({error.strerror}); give another path"]) from error
    return Path(path)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write indented JSON as `write_output` does."""
    write_output(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
