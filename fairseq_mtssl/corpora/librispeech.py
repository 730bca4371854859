"""LibriSpeech, and the small labelled subsets of Libri-light.

    mtssl prepare librispeech --root LibriSpeech --finetuning librispeech_finetuning --out data

For each split, the data folder gets fairseq's `{split}.tsv` and, in the same order, the transcripts as
`{split}.wrd`:

- train: the parts of --train (960 h); valid: the parts of --valid together;
- dev_clean, dev_other, test_clean, test_other: each part of --valid and --test under its own name;
- train_clean_100: the 100 hours of fine-tuning, if they are a part of --train;
- train_10m, train_1h and train_10h, with --finetuning: one fold of ten minutes (--fold), all six folds, and
  all six with the remaining nine hours.

The recordings are `LibriSpeech/{part}/{speaker}/{chapter}/{speaker}-{chapter}-{n}.flac`, with transcripts in
`{speaker}-{chapter}.trans.txt` beside them. `librispeech_finetuning/1h/{0..5}/{clean,other}/` and
`librispeech_finetuning/9h/{clean,other}/` hold folders of the same layout.

Only the headers of the recordings are read. All errors are reported together: missing folders, recordings
without transcript, transcripts without recording, headers that cannot be read, other rates than 16 kHz.
--partial leaves such recordings out and counts them. Rows are in the order of their paths.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.base import Corpus, register_corpus
from fairseq_mtssl.corpora.recordings import hours_of, probe_headers
from fairseq_mtssl.data.manifest import read_lines, write_audio_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.files import write_text

TRAIN = ("train-clean-100", "train-clean-360", "train-other-500")
VALID = ("dev-clean", "dev-other")
TEST = ("test-clean", "test-other")
PUBLISHED_UTTERANCES = {
    **{"train-clean-100": 28539, "train-clean-360": 104014, "train-other-500": 148688},
    **{"dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939},
}
FOLDS = range(6)
HUNDRED_HOURS = "train-clean-100"


@dataclass(frozen=True)
class Utterance:
    """One recording with its transcript. file: relative to the root of its corpus."""

    file: str
    samples: int
    text: str


@dataclass
class Findings:
    """Errors of the corpus. places: of folders and tables; utterances: those that --partial leaves out."""

    places: list[str] = field(default_factory=list)
    utterances: list[str] = field(default_factory=list)


def read_transcripts(part: Path, findings: Findings) -> dict[str, str]:
    """Read every `*.trans.txt` of a part. Returns: path of the recording without suffix -> transcript."""
    texts: dict[str, str] = {}
    for path in sorted(part.glob("*/*/*.trans.txt")):
        try:
            lines = read_lines(path)
        except ManifestError as error:
            findings.places += [f"{path}: {error}" for error in error.errors]
            continue
        for number, line in enumerate(lines, start=1):
            name, _, text = line.partition(" ")
            key = str(path.parent / name)
            if not name or not text.strip():
                findings.places.append(f"{path} line {number}: got {line!r}, wanted <utterance> <TEXT>.")
            elif key in texts:
                findings.places.append(f"{path} line {number}: {name} is there already. Keep one line.")
            else:
                texts[key] = " ".join(text.split())
    return texts


def read_part(root: Path, part: str, findings: Findings) -> list[Utterance]:
    """The utterances of one folder of speakers, in the order of their paths; errors go to `findings`."""
    folder = root / part
    if not folder.is_dir():
        findings.places.append(f"no folder {part}. Download it, or name the parts that are there.")
        return []
    texts = read_transcripts(folder, findings)
    paths = sorted(folder.glob("*/*/*.flac"), key=str)
    if not paths:
        findings.places.append(f"{part} holds no {{speaker}}/{{chapter}}/*.flac. Unpack it there.")
    utterances: list[Utterance] = []
    for path, header in zip(paths, probe_headers(paths), strict=True):
        text = texts.pop(str(path.with_suffix("")), None)
        if text is None:
            findings.utterances.append(f"{path}: no transcript in {path.parent.name}'s *.trans.txt.")
        if isinstance(header, str):
            findings.utterances.append(header)
        if text is not None and not isinstance(header, str):
            utterances.append(Utterance(path.relative_to(root).as_posix(), header, text))
    findings.utterances += [f"{key}.flac: a transcript, but no such recording." for key in texts]
    published = PUBLISHED_UTTERANCES.get(part)
    if published and paths and len(utterances) != published:
        print(f"{part}: {len(utterances)} utterances, published are {published}", file=sys.stderr)
    return utterances


def librispeech_splits(
    root: Path, train: list[str], valid: list[str], test: list[str], findings: Findings
) -> dict[str, list[Utterance]]:
    """The utterances of each split of LibriSpeech; each part is read once."""
    unique = list(dict.fromkeys([*train, *valid, *test]))
    parts = {part: read_part(root, part, findings) for part in unique}
    splits = {"train": _joined(parts[part] for part in train)} if train else {}
    if valid:
        splits["valid"] = _joined(parts[part] for part in valid)
    if HUNDRED_HOURS in train:
        splits[HUNDRED_HOURS.replace("-", "_")] = parts[HUNDRED_HOURS]
    for part in dict.fromkeys([*valid, *test]):
        splits[part.replace("-", "_")] = parts[part]
    return splits


def finetuning_splits(root: Path, fold: int, findings: Findings) -> dict[str, list[Utterance]]:
    """The subsets of 10 minutes, 1 hour and 10 hours. Source: Kahn et al. 2020, arXiv 1912.07875."""

    def clean_and_other(folder: str) -> list[Utterance]:
        return _joined(read_part(root, f"{folder}/{kind}", findings) for kind in ("clean", "other"))

    folds = [clean_and_other(f"1h/{number}") for number in FOLDS]
    hour = _joined(folds)
    return {"train_10m": folds[fold], "train_1h": hour, "train_10h": hour + clean_and_other("9h")}


def _joined(lists: Iterable[list[Utterance]]) -> list[Utterance]:
    return [utterance for each in lists for utterance in each]


def write_split(out: Path, split: str, root: Path, utterances: list[Utterance]) -> dict[str, float]:
    """Write `{split}.tsv` and `{split}.wrd`. Returns: how many utterances and hours they have."""
    sizes = [utterance.samples for utterance in utterances]
    write_audio_manifest(
        out / f"{split}.tsv", root.absolute(), [utterance.file for utterance in utterances], sizes
    )
    write_text(out / f"{split}.wrd", "".join(f"{utterance.text}\n" for utterance in utterances))
    print(f"{split}: {len(sizes)} utterances, {hours_of(sizes):.2f} h")
    return {"utterances": len(sizes), "hours": round(hours_of(sizes), 3)}


def names(text: str) -> list[str]:
    """The parts that a list such as `a,b` names. Raises: ConfigError if it names one twice."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(found)) < len(found):
        raise ConfigError("librispeech", [f"got {text!r}: a part is named twice"])
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the corpus."""
    parser.add_argument("--root", type=Path, required=True, help="folder LibriSpeech, which holds the parts")
    parser.add_argument("--out", type=Path, required=True, help="data folder to make")
    parser.add_argument("--train", default=",".join(TRAIN), help="parts that make train (960 h)")
    parser.add_argument(
        "--valid", default=",".join(VALID), help="parts that make valid (dev-clean,dev-other)"
    )
    parser.add_argument("--test", default=",".join(TEST), help="further parts (test-clean,test-other)")
    parser.add_argument("--finetuning", type=Path, help="Libri-light's folder librispeech_finetuning")
    parser.add_argument("--fold", type=int, choices=FOLDS, default=0, help="ten minutes of train_10m (0)")
    parser.add_argument("--partial", action="store_true", help="leave faulty recordings out and count them")


def prepare(args: argparse.Namespace) -> None:
    """Make the data folder. Raises: ManifestError with every error."""
    train, valid, test = names(args.train), names(args.valid), names(args.test)
    findings = Findings()
    splits = {
        split: (args.root, utterances)
        for split, utterances in librispeech_splits(args.root, train, valid, test, findings).items()
    }
    if args.finetuning is not None:
        found = finetuning_splits(args.finetuning, args.fold, findings)
        splits.update({split: (args.finetuning, utterances) for split, utterances in found.items()})
    errors = findings.places + ([] if args.partial else findings.utterances)
    if not errors:
        errors = [f"{split}: no utterance is left" for split, (_, some) in splits.items() if not some]
    if errors or not splits:
        hint = "Complete the corpus; or leave faulty recordings out: --partial."
        raise ManifestError(args.root, [*(errors or ["no parts are named"]), hint])
    data_folder.report_skips("recordings or transcripts", findings.utterances)
    data_folder.begin(args.out)
    counts = {split: write_split(args.out, split, *content) for split, content in splits.items()}
    request = {
        **{"script": "librispeech", "train": train, "valid": valid, "test": test},
        **{"finetuning": args.finetuning is not None, "fold": args.fold, "partial": args.partial},
    }
    files = [f"{split}.{suffix}" for split in splits for suffix in ("tsv", "wrd")]
    data_folder.finish(args.out, request, files, counts=counts)


register_corpus(Corpus("librispeech", __doc__, add_arguments, prepare))
