"""Pairs of Free Spoken Digit recordings and scikit-learn's images of handwritten digits.

    mtssl prepare spoken_digits --recordings free-spoken-digit-dataset/recordings --out digits

The recordings are `{digit}_{speaker}_{take}.wav` at 8 kHz; copies at 16 kHz are written to `OUT/audio`. The
images are those of `sklearn.datasets.load_digits`; they are scaled up and written to `OUT/images`. Splits:

- without --test-speakers, takes 0-4 of every speaker are the test set, as the corpus defines it, takes 5-9
  are valid, and the others train;
- with --test-speakers, all takes of these speakers are the test set. Of the other speakers, takes 5-9 are
  valid, takes from 10 on are train, and takes 0-4 are left out, so that the other test set stays unheard.

No image and no take is in two splits. The writers of the images are not known and may be in several.
Each take is paired with a random image of its digit. The label is the digit, so that with `--relevance label`
every image of the same digit is right.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_audio, write_wav
from fairseq_mtssl.data.images import write_png
from fairseq_mtssl.data.manifest import PairRow
from fairseq_mtssl.errors import AudioError, ConfigError, ManifestError
from fairseq_mtssl.files import sha256_of

FORMAT = 1  # version of what is written: with another one, a folder is made again
SPLITS = ("train", "valid", "test")
TEST_TAKES = range(0, 5)
VALID_TAKES = range(5, 10)
IMAGE_SHARE = {"test": 5, "valid": 8}  # one image of 5, and one of 8; the others are for training
NAME = re.compile(r"^(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<take>[0-9]+)\.wav$")


@dataclass(frozen=True)
class Take:
    """One recording of one digit."""

    path: Path
    digit: int
    speaker: str
    number: int


def find_takes(recordings: Path) -> tuple[list[Take], list[str]]:
    """The takes of a folder in a fixed order, and the names of wav files that are named otherwise.

    Raises: ManifestError if the folder holds no take.
    """
    takes: list[Take] = []
    foreign: list[str] = []
    for path in sorted(recordings.glob("*.wav")):
        match = NAME.match(path.name)
        if match is None:
            foreign.append(path.name)
        else:
            takes.append(Take(path, int(match["digit"]), match["speaker"], int(match["take"])))
    if not takes:
        found = f"{len(foreign)} other wavs" if recordings.is_dir() else "no such folder"
        hint = "Give the folder `recordings` of the Free Spoken Digit Dataset."
        raise ManifestError(
            recordings, [f"no recording {{digit}}_{{speaker}}_{{take}}.wav ({found}). {hint}"]
        )
    return sorted(takes, key=lambda take: (take.digit, take.speaker, take.number)), foreign


def split_takes(takes: list[Take], test_speakers: list[str]) -> dict[str, list[Take]]:
    """The takes of each split, by the rules in the description of the corpus.

    Raises: ConfigError for a speaker that no recording has, ManifestError for a split without takes.
    """
    speakers = sorted({take.speaker for take in takes})
    unknown = [speaker for speaker in test_speakers if speaker not in speakers]
    if unknown:
        raise ConfigError("--test-speakers", [f"got {unknown}, wanted some of {speakers}"])
    splits: dict[str, list[Take]] = {split: [] for split in SPLITS}
    for take in takes:
        if take.speaker in test_speakers or (not test_speakers and take.number in TEST_TAKES):
            splits["test"].append(take)
        elif take.number in VALID_TAKES:
            splits["valid"].append(take)
        elif take.number not in TEST_TAKES:
            splits["train"].append(take)
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        rule = "test: takes 0-4, or all of --test-speakers; valid: takes 5-9; train: takes from 10"
        hint = "Add recordings, or hold out fewer speakers."
        raise ManifestError(takes[0].path.parent, [f"no takes for {', '.join(empty)} ({rule}). {hint}"])
    return splits


def split_images(rng: random.Random) -> dict[str, dict[int, list[int]]]:
    """Indices of scikit-learn's images by split and digit, in random order; no index is in two splits."""
    from sklearn.datasets import load_digits

    targets = load_digits().target
    splits: dict[str, dict[int, list[int]]] = {split: {} for split in SPLITS}
    for digit in range(10):
        indices = data_folder.shuffled((int(index) for index in np.flatnonzero(targets == digit)), rng)
        test = len(indices) // IMAGE_SHARE["test"]
        valid = test + len(indices) // IMAGE_SHARE["valid"]
        splits["test"][digit] = indices[:test]
        splits["valid"][digit] = indices[test:valid]
        splits["train"][digit] = indices[valid:]
    return splits


def image_id_of(digit: int, index: int) -> str:
    """The id of scikit-learn's image number `index`; its file is `{id}.png`."""
    return f"digit{digit}_{index:04d}"


def write_images(out: Path, image_ids: list[str], size_px: int) -> None:
    """Scale scikit-learn's 8 x 8 images up and write them as grey PNGs."""
    from sklearn.datasets import load_digits

    pixels = load_digits().images
    for image_id in image_ids:
        # (8, 8) in 0..16 -> (size, size) uint8
        grey = np.rint(pixels[int(image_id.rpartition("_")[2])] * (255 / 16)).astype(np.uint8)
        scaled = Image.fromarray(grey).resize((size_px, size_px), Image.Resampling.BICUBIC)
        write_png(out / "images" / f"{image_id}.png", np.asarray(scaled))


def make_rows(
    splits: dict[str, list[Take]], out: Path, rng: random.Random
) -> tuple[dict[str, list[PairRow]], list[str]]:
    """Write every take at 16 kHz and pair it with an image of its digit.

    Images of a digit are dealt out in turn, so that all are used before one is used again.
    Returns: rows by split, and a line for each take that cannot be read.
    """
    images = split_images(rng)
    rows: dict[str, list[PairRow]] = {split: [] for split in SPLITS}
    broken: list[str] = []
    dealt: dict[tuple[str, int], int] = {}
    jobs = [(split, take) for split in SPLITS for take in data_folder.shuffled(splits[split], rng)]
    for split, take in tqdm(
        jobs, desc="resampling takes", unit="take", mininterval=1, disable=len(jobs) < 500
    ):
        try:
            wav = read_audio(take.path, resample=True)
        except AudioError as error:
            broken.append(str(error))
            continue
        file = f"{take.path.stem}.wav"
        write_wav(out / "audio" / file, wav)
        turn = dealt.get((split, take.digit), 0)
        dealt[split, take.digit] = turn + 1
        choices = images[split][take.digit]
        image_id = image_id_of(take.digit, choices[turn % len(choices)])
        digit = str(take.digit)
        rows[split].append(
            PairRow(file, len(wav), take.path.stem, f"{image_id}.png", image_id, digit, take.speaker, digit)
        )
    return {split: sorted(rows[split], key=lambda row: row.caption_id) for split in SPLITS}, broken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--recordings", type=Path, required=True, help="folder of the wavs")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--test-speakers", default="", help="comma-separated, for the test split alone")
    parser.add_argument("--seed", type=int, default=0, help="of image split and pairing")
    parser.add_argument("--image-size", type=int, default=32, help="side in pixels")


def prepare(args: argparse.Namespace) -> None:
    """Make the data folder, unless it has been made already. Raises: MtsslError on faulty input."""
    if args.image_size < 8:
        raise ConfigError("--image-size", [f"got {args.image_size}, wanted at least 8"])
    takes, foreign = find_takes(args.recordings)
    data_folder.report_skips("wavs not named {digit}_{speaker}_{take}.wav", foreign)
    test_speakers = sorted({name.strip() for name in args.test_speakers.split(",")} - {""})
    splits = split_takes(takes, test_speakers)
    content = "".join(f"{take.path.name} {sha256_of(take.path)}\n" for take in takes)
    request = {
        "script": "spoken_digits",
        "format": FORMAT,
        "seed": args.seed,
        "test_speakers": test_speakers,
        "image_size_px": args.image_size,
        "recordings_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }
    if data_folder.is_made(args.out, request):
        return
    data_folder.begin(args.out)
    rows, broken = make_rows(splits, args.out, random.Random(args.seed))
    data_folder.report_skips("takes that cannot be read", broken)
    image_ids = sorted({row.image_id for split in SPLITS for row in rows[split]})
    write_images(args.out, image_ids, args.image_size)
    files, counts = data_folder.write_splits(args.out, rows)
    skipped = foreign + broken
    data_folder.finish(
        args.out, request, files, sample_rate_hz=SAMPLE_RATE_HZ, counts=counts, skipped=skipped
    )


register_corpus(Corpus("spoken_digits", __doc__, add_arguments, prepare))
