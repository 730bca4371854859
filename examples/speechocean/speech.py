"""Adds speech for pre-training and ten minutes of labelled speech to the data folder of speechocean.

    python examples/speechocean/speech.py --data data --speech speechocean --more speechocean-more

`--data` is a folder that manifests/aligned_phones.py made of speechocean, with manifests and phones of the
train, valid and test speakers. It gets

- `audio/`: the recordings of the train speakers and of speechocean-more as 16-bit wav files at 16 kHz.
  Decoding Ogg Opus in every epoch would take a third of the time in which a small model is trained;
- `pretrain.tsv`: the manifest of all files in `audio/`;
- `train_10m.tsv`: ten minutes of them, drawn at random from all speakers with a fixed seed;
- `transcripts.tsv`: the words of every utterance of both folders, for `mtssl prepare-text`;
- `{split}.abx.item` of valid and test: the items of at least 40 ms, so that features at 25 and at 100 frames
  a second are measured on the same tokens.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mtssl.corpora.base import run_script
from fairseq_mtssl.corpora.data_folder import shuffled, usable_cores
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_audio, write_wav
from fairseq_mtssl.data.manifest import read_audio_manifest, read_lines
from fairseq_mtssl.data.text_source import read_text_table
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.files import write_text

SEED = 0
SHORTEST_ITEM_S = 0.04  # a frame at 25 Hz
SUFFIXES = (".opus", ".flac", ".wav")


def main(argv: list[str] | None = None) -> None:
    """Add the files. Raises: ManifestError with all errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that aligned_phones.py made")
    parser.add_argument("--speech", type=Path, required=True, help="folder of speechocean (text.tsv)")
    parser.add_argument(
        "--more", type=Path, required=True, help="folder of speechocean-more (audio, text.tsv)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the labelled speech (10)")
    args = parser.parse_args(argv)
    train = read_audio_manifest(args.data / "train.tsv")
    words = {
        name: text
        for folder in (args.speech, args.more)
        for name, (_, text) in read_text_table(folder / "text.tsv").items()
    }
    recordings = [Path(train.audio_path(row)) for row in range(len(train))] + find_recordings(args.more)
    check_recordings(recordings, words, args.more)
    sizes = decode(recordings, args.data / "audio")
    write_manifest(args.data / "pretrain.tsv", sizes)
    labelled = draw(sizes, round(args.minutes * 60 * SAMPLE_RATE_HZ))
    write_manifest(args.data / "train_10m.tsv", labelled)
    lines = ["utt\twords", *(f"{name}\t{text}" for name, text in sorted(words.items()))]
    write_text(args.data / "transcripts.tsv", "\n".join(lines) + "\n")
    kept = {split: keep_items(args.data, split) for split in ("valid", "test")}
    hours, minutes = (sum(each.values()) / SAMPLE_RATE_HZ / 60 for each in (sizes, labelled))
    print(f"pretrain: {len(sizes)} utterances, {hours / 60:.2f} h")
    print(f"train_10m: {len(labelled)} utterances, {minutes:.1f} min")
    for split, (long, every) in kept.items():
        print(f"{split}.abx.item: {long} of {every} items")


def find_recordings(more: Path) -> list[Path]:
    """The recordings of speechocean-more, in the order of names. Raises: ManifestError if there is none."""
    folder = more / "audio"
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ManifestError(folder, [f"holds no {', '.join(SUFFIXES)}. Give the folder above audio."])
    return found


def check_recordings(recordings: Sequence[Path], words: Mapping[str, str], place: Path) -> None:
    """Check that names are unique and all recordings have texts. Raises: ManifestError with all errors."""
    seen: set[str] = set()
    errors = []
    for path in recordings:
        if path.stem in seen:
            errors.append(f"{path}: a recording of this name came before. Rename one.")
        if path.stem not in words:
            errors.append(f"{path}: text.tsv has no words of it. Add them, or leave the recording out.")
        seen.add(path.stem)
    if errors:
        raise ManifestError(place, errors)


def decode(recordings: Sequence[Path], folder: Path) -> dict[str, int]:
    """Write recordings as 16-bit wav files. Returns: file name -> samples, in the given order."""

    def convert(path: Path) -> tuple[str, int]:
        wav = read_audio(path)
        write_wav(folder / f"{path.stem}.wav", wav)
        return f"{path.stem}.wav", len(wav)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return dict(pool.map(convert, recordings))


def draw(sizes: Mapping[str, int], samples: int) -> dict[str, int]:
    """Files in a random order with a fixed seed, until the next file would exceed the number of samples."""
    chosen: dict[str, int] = {}
    for name in shuffled(sorted(sizes), random.Random(SEED)):
        if sum(chosen.values()) + sizes[name] > samples:
            break
        chosen[name] = sizes[name]
    return dict(sorted(chosen.items()))


def write_manifest(path: Path, sizes: Mapping[str, int]) -> None:
    """Write `{split}.tsv` of files in the folder `audio` beside it. sizes: file name -> samples."""
    lines = ["audio", *(f"{name}\t{size}" for name, size in sizes.items())]
    write_text(path, "\n".join(lines) + "\n")


def keep_items(data: Path, split: str) -> tuple[int, int]:
    """Write the items that are long enough. Returns: their number and that of all items."""
    header, *items = read_lines(data / f"{split}.item")
    shortest = SHORTEST_ITEM_S - 0.5 / SAMPLE_RATE_HZ  # times are rounded to samples
    spans = ((item, item.split()) for item in items)
    kept = [item for item, cells in spans if float(cells[2]) - float(cells[1]) >= shortest]
    write_text(data / f"{split}.abx.item", "\n".join([header, *kept]) + "\n")
    return len(kept), len(items)


if __name__ == "__main__":
    sys.exit(run_script(main))
