"""What the scripts share that make manifests of speech alone: headers in threads, `{split}.tsv`, counts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from fairseq_mtssl.data import corpus
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_header
from fairseq_mtssl.errors import AudioError, ManifestError
from fairseq_mtssl.files import write_text


def probe_headers(paths: Sequence[Path]) -> list[int | str]:
    """Samples of each recording as its header says, or what is wrong with it; nothing is decoded."""

    def probe(path: Path) -> int | str:
        try:
            samples, rate_hz = read_header(path)
        except AudioError as error:
            return str(error)
        if rate_hz != SAMPLE_RATE_HZ:
            return f"{path}: sampled at {rate_hz} Hz, wanted {SAMPLE_RATE_HZ} Hz. Convert it."
        return samples

    with ThreadPoolExecutor(min(16, 4 * corpus.usable_cores())) as pool:
        headers = pool.map(probe, paths)
        quiet = len(paths) < 2000
        return list(tqdm(headers, "reading headers", len(paths), unit="file", mininterval=1, disable=quiet))


def write_audio_manifest(path: Path, root: Path | str, files: Sequence[str], sizes: Sequence[int]) -> None:
    """Write fairseq's `{split}.tsv`: the root (absolute, or relative to the file), then path and samples.

    Raises: ManifestError for paths with tabs or line breaks, which the format cannot hold.
    """
    wrong = [file for file in files if any(mark in file for mark in "\t\n\r")]
    if wrong:
        raise ManifestError(path, [f"tab or line break in {file!r}. Rename the file." for file in wrong])
    lines = [str(root), *(f"{file}\t{size}" for file, size in zip(files, sizes, strict=True))]
    write_text(path, "\n".join(lines) + "\n")


def hours_of(sizes: Sequence[int]) -> float:
    """Samples to hours."""
    return sum(sizes) / SAMPLE_RATE_HZ / 3600
