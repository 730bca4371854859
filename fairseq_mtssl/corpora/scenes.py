"""The embedded corpus: drawn images of coloured shapes, and captions spoken by espeak-ng.

    pip install 'fairseq-mtssl[demo]'
    mtssl prepare scenes --out scenes

Images show one or two shapes, and captions say which and where ("a small red circle above a blue star").
No two images of the corpus have the same description. Splits:

- train has all combinations of a colour and a shape except eight held-out ones, in twelve voices;
- valid has other images of the same combinations, in the same voices;
- in test, every image has at least one of the held-out combinations, which no other split shows or says, and
  the captions are in four voices whose variants are in no other split.

The label of an image is its canonical description, so that with `--relevance label` every image with that
description is right. `{split}.phones.tsv` holds the phone timings (caption_id, start_s, end_s, phone in
espeak's ASCII names, word), and `corpus.json` the seed, the voices, the held-out combinations, counts and
SHA-256 sums. The result depends on the options alone, not on the machine, the time or the number of workers.
This was seen on x86-64; speech synthesised on another processor family may differ in the last bit.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.corpora.espeak import ESPEAK_RATE_HZ, Phone, Utterance, library_and_data, synthesise
from fairseq_mtssl.corpora.scene_images import COLOURS, SHAPES, Scene, draw_scene, render, tell
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, resample_wav, write_wav
from fairseq_mtssl.data.images import write_png
from fairseq_mtssl.data.manifest import PairRow
from fairseq_mtssl.data.phones import write_phone_rows
from fairseq_mtssl.errors import ConfigError

FORMAT = 3  # version of what is written: with another one, a folder is made again
SPLITS = ("train", "valid", "test")
# no variant with `breath`, because the clock seeds the noise generator that espeak-ng uses for it
TRAIN_VOICES = (
    *("en-us+m1", "en-us+m3", "en-us+m7", "en-us+f1", "en-us+f4"),
    *("en+m2", "en+m4", "en+linda", "en+Annie"),
    *("en-gb-scotland+m5", "en-gb-scotland+Andrea", "en-gb-x-rp+Alex"),
)
TEST_VOICES = ("en-us+belinda", "en-us+Michael", "en+m6", "en+steph")
RATE_WPM = (165, 215)
PITCH = (35, 65)
PITCH_RANGE = (40, 65)
GAIN = 0.8  # resampling overshoots; at this gain nothing is clipped


@dataclass(frozen=True)
class Caption:
    """One caption to be spoken into `audio/{caption_id}.wav`."""

    caption_id: str
    image_id: str
    label: str
    utterance: Utterance


def held_out_combinations(seed: int) -> list[tuple[str, str]]:
    """Eight pairs of colour and shape, each of which occurs once and is thus seen in other pairs."""
    colours = data_folder.shuffled(COLOURS, random.Random(f"{seed}/held out"))
    return list(zip(colours, SHAPES, strict=True))


def draw_scenes(counts: dict[str, int], seed: int) -> dict[str, list[Scene]]:
    """The scenes of each split; no two scenes of the corpus have the same description.

    counts: scenes of each split. Raises: ConfigError if there are fewer different descriptions than that.
    """
    held_out = held_out_combinations(seed)
    every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    seen = [combination for combination in every if combination not in held_out]
    used: set[str] = set()
    scenes: dict[str, list[Scene]] = {}
    for split in reversed(SPLITS):  # test and valid stay as they are when train grows
        rng = random.Random(f"{seed}/{split}/scenes")
        one_of, other_of = (held_out, every) if split == "test" else (seen, seen)
        scenes[split] = []
        for _ in range(20 * counts[split]):
            if len(scenes[split]) == counts[split]:
                break
            scene = draw_scene(rng, first=one_of, other=other_of)
            if scene.description not in used:
                used.add(scene.description)
                scenes[split].append(scene)
        if len(scenes[split]) < counts[split]:
            found = f"only {len(scenes[split])} of {counts[split]} images can be told apart"
            raise ConfigError(f"--{split}", [f"{found}. Ask for fewer."])
    return scenes


def plan_captions(split: str, scenes: list[Scene], per_image: int, seed: int) -> list[Caption]:
    """The captions of a split, in all voices alternately, in random order and with random rate and pitch."""
    rng = random.Random(f"{seed}/{split}/captions")

    def between(bounds: tuple[int, int]) -> int:
        return bounds[0] + int(rng.random() * (bounds[1] - bounds[0] + 1))

    turn: list[str] = []
    captions: list[Caption] = []
    for number, scene in enumerate(scenes):
        for take in range(per_image):
            turn = turn or data_folder.shuffled(TEST_VOICES if split == "test" else TRAIN_VOICES, rng)
            utterance = Utterance(
                tell(scene, rng), turn.pop(), between(RATE_WPM), between(PITCH), between(PITCH_RANGE)
            )
            image_id = f"{split}_{number:05d}"
            captions.append(Caption(f"{image_id}_{take}", image_id, scene.description, utterance))
    return captions


def speak(job: tuple[Caption, Path]) -> tuple[int, list[Phone]]:
    """Synthesise one caption, resample it to 16 kHz and write it. Returns: samples and phones."""
    caption, audio_dir = job
    spoken = synthesise(caption.utterance)
    wav = spoken.wav.astype(np.float32) * np.float32(GAIN / 32768)
    wav = resample_wav(wav, ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
    write_wav(audio_dir / f"{caption.caption_id}.wav", wav)
    return len(wav), spoken.phones


@contextmanager
def mapper(workers: int) -> Iterator[Any]:
    """A `map` that keeps the order, in so many processes, because espeak-ng can be used once per process."""
    if workers < 2:
        yield map
        return
    # fork is quick, and it is safe because no library has started threads of its own
    method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        yield lambda function, jobs: pool.map(function, jobs, chunksize=16)


def speak_all(captions: list[Caption], out: Path, workers: int) -> list[tuple[int, list[Phone]]]:
    """Speak all captions, with a progress bar. Returns: samples and phones of each."""
    (out / "audio").mkdir(exist_ok=True)
    with mapper(workers) as run:
        done = run(speak, [(caption, out / "audio") for caption in captions])
        return list(tqdm(done, "speaking captions", len(captions), unit="caption", mininterval=1))


def write_phones(path: Path, captions: list[Caption], phones: list[list[Phone]]) -> None:
    """Write the phone timings of a split, in seconds."""
    table = [
        (caption.caption_id, f"{phone.start_s:.4f}", f"{phone.end_s:.4f}", phone.phone, phone.word)
        for caption, timed in zip(captions, phones, strict=True)
        for phone in timed
    ]
    write_phone_rows(path, table)


def make(out: Path, request: dict[str, Any], workers: int) -> None:
    """Draw, speak and write the corpus that the request describes, and its record last."""
    seed, size_px = request["seed"], request["image_size_px"]
    scenes = draw_scenes({split: request[split] for split in SPLITS}, seed)
    captions = {
        split: plan_captions(split, scenes[split], request["captions_per_image"], seed) for split in SPLITS
    }
    data_folder.begin(out)
    for split in SPLITS:
        rng = random.Random(f"{seed}/{split}/images")
        for number, scene in enumerate(scenes[split]):
            write_png(out / "images" / f"{split}_{number:05d}.png", render(scene, size_px, rng))
    spoken = iter(speak_all([caption for split in SPLITS for caption in captions[split]], out, workers))
    rows: dict[str, list[PairRow]] = {}
    seconds: dict[str, float] = {}
    for split in SPLITS:
        sizes, phones = zip(*(next(spoken) for _ in captions[split]), strict=True)
        rows[split] = [_row(*spoken_one) for spoken_one in zip(captions[split], sizes, strict=True)]
        write_phones(out / f"{split}.phones.tsv", captions[split], list(phones))
        seconds[split] = round(sum(sizes) / SAMPLE_RATE_HZ, 1)
    files, counts = data_folder.write_splits(out, rows)
    data_folder.finish(
        out,
        request,
        files + [f"{split}.phones.tsv" for split in SPLITS],
        sample_rate_hz=SAMPLE_RATE_HZ,
        counts=counts,
        speech_s=seconds,
        voices={"train": TRAIN_VOICES, "valid": TRAIN_VOICES, "test": TEST_VOICES},
        held_out_combinations=[" ".join(combination) for combination in held_out_combinations(seed)],
        licence="speech by espeak-ng (GPL-3 program); images drawn by this script",
    )


def _row(caption: Caption, samples: int) -> PairRow:
    return PairRow(
        file=f"{caption.caption_id}.wav",
        samples=samples,
        caption_id=caption.caption_id,
        image=f"{caption.image_id}.png",
        image_id=caption.image_id,
        label=caption.label,
        speaker=caption.utterance.voice,
        text=caption.utterance.text,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default 0)")
    for split, count in (("train", 1500), ("valid", 200), ("test", 200)):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"images (default {count})")
    parser.add_argument("--captions-per-image", type=int, default=2, help="spoken captions (default 2)")
    parser.add_argument("--image-size", type=int, default=48, help="side in pixels, 32 to 64 (default 48)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one per core, at most 8)")


def prepare(args: argparse.Namespace) -> None:
    """Make the corpus, unless it has been made already. Raises: MtsslError on faulty options."""
    errors = [
        f"--{name.replace('_', '-')}: got {getattr(args, name)}, wanted at least 1"
        for name in (*SPLITS, "captions_per_image")
        if getattr(args, name) < 1
    ]
    if not 32 <= args.image_size <= 64:
        errors.append(f"--image-size: got {args.image_size}, wanted 32 to 64")
    if errors:
        raise ConfigError("scenes", errors)
    library_and_data()  # raises an error before anything is written
    request = {
        "script": "scenes",
        "format": FORMAT,
        "seed": args.seed,
        **{split: getattr(args, split) for split in SPLITS},
        "captions_per_image": args.captions_per_image,
        "image_size_px": args.image_size,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
    }
    if data_folder.is_made(args.out, request):
        return
    make(args.out, request, args.workers or min(8, data_folder.usable_cores()))


register_corpus(Corpus("scenes", __doc__, add_arguments, prepare))
