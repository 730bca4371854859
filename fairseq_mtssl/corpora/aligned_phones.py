"""Phone alignments for speech: splits by speaker, phones in seconds, a phone for each frame, ABX items.

    mtssl prepare aligned_phones --audio recordings --alignment phones.tsv --out phones
    mtssl prepare aligned_phones --data data --splits dev_clean --alignment dev-clean --fold stress

--alignment is a file or a folder of one of these kinds:

- TIMIT's `.phn`: each line has start, end (both in samples) and phone; `--fold timit39` reduces the 61
  phones to 39;
- Praat's TextGrid, as the Montreal Forced Aligner writes it (--tier phones); `--fold stress` joins AH0, AH1
  and AH2. This kind needs the extra `corpora`;
- a table with utterance, start s, end s, phone and word;
- an ABX item file of single phones with file, onset s, offset s, phone, previous, next and speaker.

With --audio, the data folder OUT is made of a folder of wav or flac files, and no speaker is in two splits.
Speakers are taken from the first of these that has them: --speakers (a table whose first column is the
utterance and which has a column `speaker`), the alignment, a table beside it, LibriSpeech's file names, the
folders of the recordings. The program prints which it is. With --data, the splits of a data folder are kept.
The data folder gets

- `{split}.phones.tsv`: caption_id (the name of the file without its suffix), start_s, end_s, phone, word;
- `{split}.phn`: the phone at the middle of every 20 ms frame, one utterance per line. `<pad>` stands where
  there is no phone, and the line of an utterance that is not aligned is empty;
- `dict.phn.txt`: the phones, and how many frames have them;
- `{split}.item` for every split but train: triphones, or single phones with --item-span phone.

All errors are reported together. Recordings without alignment and alignments without recording are left out
and counted. Where file names repeat, as in TIMIT, recordings are linked as OUT/audio/{folders}_{name}.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.alignments import FOLDS, Alignments, Phone, read_alignments
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.corpora.recordings import (
    Speech,
    choose_splits,
    hours_of,
    match,
    probe_headers,
    read_data_splits,
    read_recordings,
    speakers_of,
)
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.manifest import write_audio_manifest
from fairseq_mtssl.data.phones import LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES, NO_PHONE, write_phone_rows
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.files import write_text
from fairseq_mtssl.frames import frame_count

ITEM_HEADER = "#file onset offset #phone prev-phone next-phone speaker"
PAST_THE_END_S = 0.1  # by how much an alignment may be longer than its recording
GAP_S = 1e-3  # between phones that still count as neighbours


@dataclass(frozen=True)
class Aligned:
    """A recording with its phones. name: the utterance in `{split}.phones.tsv`. speaker: "" if unknown."""

    name: str
    file: str
    samples: int
    speaker: str
    phones: list[Phone]

    def frame_phones(self) -> list[str]:
        """The phone at the middle of each frame of wav2vec 2.0's convolutions."""
        frames = frame_count(self.samples, LABEL_HOP_SAMPLES, LABEL_WINDOW_SAMPLES)
        middles_s = (np.arange(frames) + 0.5) / (SAMPLE_RATE_HZ / LABEL_HOP_SAMPLES)
        labels = [NO_PHONE] * frames
        for phone in self.phones:
            first, past = np.searchsorted(middles_s, [phone.start_s, phone.end_s])
            labels[first:past] = [phone.phone] * int(past - first)
        return labels

    def items(self, span: str) -> list[str]:
        """Lines of an item file: each phone between two neighbours, where none of the three is a silence.

        span: "triphone" or "phone", which onset and offset enclose.
        """
        lines: list[str] = []
        for before, phone, after in zip(self.phones, self.phones[1:], self.phones[2:]):
            apart = max(phone.start_s - before.end_s, after.start_s - phone.end_s)
            if phone.context or apart > GAP_S or any(each.is_silence for each in (before, phone, after)):
                continue
            first, last = (before, after) if span == "triphone" else (phone, phone)
            lines.append(self._item(first.start_s, last.end_s, phone.phone, before.phone, after.phone))
        given = [phone for phone in self.phones if phone.context]
        return lines + [
            self._item(phone.start_s, phone.end_s, phone.phone, *phone.context or ()) for phone in given
        ]

    def _item(self, onset_s: float, offset_s: float, *phones: str) -> str:
        return " ".join([self.name, seconds(onset_s), seconds(offset_s), *phones, self.speaker])


def seconds(value: float) -> str:
    """Seconds as text, exact for samples at 16 kHz and without needless zeros: 0.55, 1.0000625, 2.0."""
    text = f"{value:.7f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def align(speech: Speech, sizes: list[int | str], alignments: Alignments) -> tuple[list[Aligned], list[str]]:
    """Join recordings with their phones, which are cut at the end of the audio.

    sizes: samples of each recording, or the error of its header. Returns: the recordings, and the errors.
    """
    aligned: list[Aligned] = []
    errors: list[str] = []
    for row, size in enumerate(sizes):
        key, name = speech.keys[row], speech.names[row]
        if isinstance(size, str):
            errors.append(size)
            continue
        end_s, phones = size / SAMPLE_RATE_HZ, alignments.phones[key]
        if phones and phones[-1].end_s > end_s + PAST_THE_END_S:
            got = f"{key}: phones until {phones[-1].end_s} s, but {speech.files[row]} ends at {end_s} s"
            errors.append(f"{got}. Give the alignment of this recording.")
        cut = [
            Phone(min(each.start_s, end_s), min(each.end_s, end_s), each.phone, each.word, each.context)
            for each in phones
        ]
        aligned.append(Aligned(name, speech.files[row], size, speech.speakers[row], cut))
    return aligned, errors


def write_split(out: Path, split: str, rows: list[Aligned], order: list[str], span: str) -> Counter[str]:
    """Write phones, frame phones and items of a split. order: the names of all rows of its manifest.

    Returns: the number of frames of each phone.
    """
    table = [
        (row.name, seconds(phone.start_s), seconds(phone.end_s), phone.phone, phone.word)
        for row in rows
        for phone in row.phones
    ]
    write_phone_rows(out / f"{split}.phones.tsv", table)
    frames = {row.name: row.frame_phones() for row in rows}
    write_text(out / f"{split}.phn", "".join(" ".join(frames.get(name, [])) + "\n" for name in order))
    counts = Counter(phone for labels in frames.values() for phone in labels)
    bare = counts.pop(NO_PHONE, 0)
    told = f"{split}: {len(rows)} utterances with phones, {hours_of([row.samples for row in rows]):.2f} h, "
    told += f"{len(counts)} phones on {sum(counts.values())} frames, {bare} frames without"
    if split != "train":
        told += _write_items(out / f"{split}.item", rows, span)
    print(told)
    return counts


def _write_items(path: Path, rows: list[Aligned], span: str) -> str:
    """Write an item file, unless its columns cannot be filled. Returns: the end of the split's message."""
    if not all(row.speaker for row in rows):
        path.unlink(missing_ok=True)
        return "; no items, since speakers are not known (--speakers)"
    spaced = [row.name for row in rows if len(f"{row.name} {row.speaker}".split()) != 2]
    if spaced:
        path.unlink(missing_ok=True)
        return f"; no items, since names hold spaces, as {spaced[0]!r}"
    items = [item for row in rows for item in row.items(span)]
    write_text(path, "\n".join([ITEM_HEADER, *items]) + "\n")
    return f"; {len(items)} items"


def write_dictionary(out: Path, counts: Iterable[Counter[str]]) -> None:
    """Write `dict.phn.txt`: the phones of all splits, from the most to the least frequent."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    ranked = sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))
    write_text(out / "dict.phn.txt", "".join(f"{phone} {count}\n" for phone, count in ranked))


def from_audio(args: argparse.Namespace, alignments: Alignments) -> None:
    """Make a data folder of a folder of recordings: splits by speaker, with phones."""
    every = read_recordings(args.audio, args.out, args.suffix)
    speech, errors = match(every, alignments)
    aligned, wrong = align(speech, probe_headers([args.audio / file for file in speech.files]), alignments)
    errors += alignments.errors + wrong
    unknown = sum(not speaker for speaker in speech.speakers)
    if unknown:
        hint = "Name them in a table: --speakers FILE (columns utterance and speaker)"
        errors.append(f"{unknown} of {len(speech.files)} recordings have no known speaker. {hint}.")
    if errors:
        raise ManifestError(args.audio, errors)
    chosen = choose_splits(
        sorted({row.speaker for row in aligned}),
        {"valid": (args.valid_share, args.valid_speakers), "test": (args.test_share, args.test_speakers)},
        args.seed,
    )
    data_folder.begin(args.out)
    links = speech.link(args.audio, args.out)
    root = args.out.absolute() / "audio" if links else args.audio.absolute()
    counts: list[Counter[str]] = []
    files: list[str] = ["dict.phn.txt"]
    for split, speakers in chosen.items():
        rows = [row for row in aligned if row.speaker in speakers]
        names = [links.get(row.file, row.file) for row in rows]
        write_audio_manifest(args.out / f"{split}.tsv", root, names, [row.samples for row in rows])
        counts.append(write_split(args.out, split, rows, [row.name for row in rows], args.item_span))
        files += [f"{split}.{suffix}" for suffix in ("tsv", "phones.tsv", "phn")]
        files += [f"{split}.item"] if (args.out / f"{split}.item").is_file() else []
    write_dictionary(args.out, counts)
    request = {"script": "aligned_phones", "seed": args.seed, "fold": args.fold, "kind": alignments.kind}
    data_folder.finish(
        args.out, request, files, speakers={name: sorted(some) for name, some in chosen.items()}
    )


def onto_data(args: argparse.Namespace, alignments: Alignments) -> None:
    """Write the phones of splits of a data folder beside their manifests."""
    splits = read_data_splits(args.data, args.splits)
    errors = list(alignments.errors)
    done: list[tuple[str, list[Aligned], list[str]]] = []
    for split, (every, sizes) in splits.items():
        speech, wrong = match(every, alignments, quiet=True)
        known: list[int | str] = [sizes[file] for file in speech.files]
        aligned, also = align(speech, known, alignments)
        errors += [f"{split}: {error}" for error in wrong + also]
        print(f"{split}: {len(aligned)} of {len(every.files)} utterances are aligned", file=sys.stderr)
        if aligned:
            done.append((split, aligned, every.names))
    if not done:
        errors.append("no utterance of these splits is aligned. Check that names are alike.")
    if errors:
        raise ManifestError(args.data, errors)
    counts = [write_split(args.data, split, rows, order, args.item_span) for split, rows, order in done]
    write_dictionary(args.data, counts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--audio", type=Path, help="folder of recordings to make a data folder of")
    where.add_argument("--data", type=Path, help="data folder whose splits get phones")
    parser.add_argument("--alignment", type=Path, required=True, help="file or folder of phone alignments")
    parser.add_argument("--out", type=Path, help="data folder to make, with --audio")
    parser.add_argument("--splits", help="with --data: these splits, as dev_clean,dev_other (all)")
    parser.add_argument("--tier", default="phones", help="tier of TextGrids (phones)")
    parser.add_argument("--fold", choices=tuple(FOLDS), default="none", help="which phones to join (none)")
    parser.add_argument("--item-span", choices=("triphone", "phone"), default="triphone", help="(triphone)")
    parser.add_argument("--speakers", type=Path, help="table: utterance first, a column `speaker`")
    parser.add_argument("--suffix", default="", help="with --audio: only files with this ending, as .flac")
    parser.add_argument("--valid-share", type=float, default=0.2, help="share of the speakers (0.2)")
    parser.add_argument("--test-share", type=float, default=0.0, help="share of the speakers (0)")
    parser.add_argument("--valid-speakers", default="", help="these speakers instead, comma-separated")
    parser.add_argument("--test-speakers", default="", help="these speakers instead, comma-separated")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of speakers (0)")


def prepare(args: argparse.Namespace) -> None:
    """Make a data folder, or add phones to one. Raises: ManifestError with every error, ConfigError."""
    if (args.audio is None) != (args.out is None):
        raise ConfigError("aligned_phones", ["give --out with --audio, and only then"])
    if not args.alignment.exists():
        raise ConfigError("--alignment", [f"{args.alignment} is not there"])
    alignments = read_alignments(args.alignment, tier=args.tier, fold=args.fold)
    speakers_of(alignments, args.alignment, args.speakers)
    (from_audio if args.audio is not None else onto_data)(args, alignments)


register_corpus(Corpus("aligned_phones", __doc__, add_arguments, prepare))
