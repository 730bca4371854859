"""Recordings: their sizes, their alignments and speakers, and splits that have no speaker in common."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fairseq_mtssl.corpora import data_folder
from fairseq_mtssl.corpora.alignments import Alignments
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_header
from fairseq_mtssl.data.manifest import (
    find_splits,
    pairs_path,
    read_audio_manifest,
    read_lines,
    read_pair_manifest,
)
from fairseq_mtssl.errors import AudioError, ConfigError, ManifestError

AUDIO_SUFFIXES = (".wav", ".flac")
LIBRISPEECH_NAME = re.compile(r"(\d+)-\d+-\d+")


def probe_headers(paths: Sequence[Path]) -> list[int | str]:
    """The samples of each recording according to its header, or the error that its header shows."""

    def probe(path: Path) -> int | str:
        try:
            samples, rate_hz = read_header(path)
        except AudioError as error:
            return str(error)
        if rate_hz != SAMPLE_RATE_HZ:
            return f"{path}: sampled at {rate_hz} Hz, wanted {SAMPLE_RATE_HZ} Hz. Convert it."
        return samples

    return data_folder.in_threads(probe, paths, "reading headers")


def hours_of(sizes: Sequence[int]) -> float:
    """Samples to hours."""
    return sum(sizes) / SAMPLE_RATE_HZ / 3600


@dataclass(frozen=True)
class Speech:
    """Recordings; each list has one entry per recording.

    files: paths relative to the audio root. names: the name of the file without its suffix, or the caption
    id. keys: the name of the utterance in the alignment. speakers: "" if unknown.
    """

    files: list[str]
    names: list[str]
    keys: list[str]
    speakers: list[str]

    def link(self, root: Path, out: Path) -> dict[str, str]:
        """Link the recordings in out/audio if names of files repeat. Returns: file -> name of its link."""
        if all(PurePosixPath(file).stem == name for file, name in zip(self.files, self.names, strict=True)):
            return {}
        links = {file: link_name(file) for file in self.files}
        (out / "audio").mkdir(parents=True, exist_ok=True)
        for file, name in links.items():
            (out / "audio" / name).unlink(missing_ok=True)
            (out / "audio" / name).symlink_to((root / file).absolute())
        return links


def link_name(file: str) -> str:
    """A path as one name: `DR1/FCJF0/SA1.WAV` becomes `DR1_FCJF0_SA1.WAV`."""
    return "_".join(PurePosixPath(file).parts)


def without_suffixes(file: str) -> str:
    """A path without its audio suffixes. There can be two: some copies of TIMIT have SA1.WAV.wav."""
    path = PurePosixPath(file)
    while path.suffix.lower() in AUDIO_SUFFIXES:
        path = path.with_suffix("")
    return str(path)


def read_recordings(root: Path, out: Path, suffix: str) -> Speech:
    """The wav and flac files below a folder whose names end in `suffix`, sorted, except those below `out`.

    Raises: ManifestError if there is none, or if two in the same folder have the same name.
    """
    below = out.absolute()
    paths = [path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    kept = [path for path in paths if below not in path.absolute().parents and path.name.endswith(suffix)]
    files = sorted(path.relative_to(root).as_posix() for path in kept)
    if not files:
        found = "no such folder" if not root.is_dir() else "no file ends in " + (suffix or ".wav or .flac")
        raise ManifestError(root, [f"{found}. Give the folder of the recordings."])
    stems = Counter(PurePosixPath(file).stem for file in files)
    unique = len(stems) == len(files)
    names = [PurePosixPath(file if unique else link_name(file)).stem for file in files]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        hint = "Choose by --suffix, as .flac."
        raise ManifestError(root, [f"two recordings are named {name}. {hint}" for name in twice])
    return Speech(files, names, [], folder_speakers(files))


def folder_speakers(files: Sequence[str]) -> list[str]:
    """The speakers according to LibriSpeech's file names, or else the folders of the files if they differ."""
    stems = [LIBRISPEECH_NAME.fullmatch(PurePosixPath(file).stem) for file in files]
    if all(stems):
        return [match[1] for match in stems if match]
    folders = [PurePosixPath(file).parent.name for file in files]
    return folders if all(folders) and len(set(folders)) > 1 else [""] * len(files)


def read_data_splits(data: Path, names: str | None) -> dict[str, tuple[Speech, dict[str, int]]]:
    """Read splits of a data folder. names: see `find_splits`.

    Returns: recordings, and samples of each file, by split. Raises: ConfigError if there is no split.
    """
    splits: dict[str, tuple[Speech, dict[str, int]]] = {}
    for split in find_splits(data, names):
        manifest = read_audio_manifest(data / f"{split}.tsv")
        captions, speakers = [Path(file).stem for file in manifest.files], folder_speakers(manifest.files)
        if pairs_path(manifest.path).is_file():
            pairs = read_pair_manifest(data, split)
            captions, speakers = pairs.caption_ids, pairs.speakers
        sizes = dict(zip(manifest.files, manifest.sizes.tolist(), strict=True))
        splits[split] = Speech(manifest.files, captions, [], speakers), sizes
    return splits


def match(speech: Speech, alignments: Alignments, quiet: bool = False) -> tuple[Speech, list[str]]:
    """Find the alignment of each recording.

    The alignment of a recording is the one whose key is its caption id, or else the one whose key has its
    name and the most of its folders, counted from the end. Unless quiet, recordings without alignment and
    alignments without recording are counted on standard error.
    Returns: the recordings that are aligned, with keys and speakers, and the errors.
    """
    tails: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in alignments.phones:
        parts = PurePosixPath(key).parts
        for length in range(1, len(parts) + 1):
            tails[parts[-length:]].append(key)
    errors: list[str] = []
    users: dict[str, str] = {}
    rows: list[tuple[str, str, str, str]] = []
    bare: list[str] = []
    for file, name, speaker in zip(speech.files, speech.names, speech.speakers, strict=True):
        parts = PurePosixPath(without_suffixes(file)).parts
        ends = [(name,), *(parts[-length:] for length in range(len(parts), 0, -1))]
        keys = next((tails[end] for end in ends if end in tails), [])
        if not keys:
            bare.append(file)
        elif len(keys) > 1:
            errors.append(f"{file}: aligned by {keys[0]} and {keys[1]}. Give folders of the same layout.")
        elif keys[0] in users:
            errors.append(f"{keys[0]}: aligns {users[keys[0]]} and {file}. Leave one out, as by --suffix.")
        else:
            users[keys[0]] = file
            rows.append((file, name, keys[0], alignments.speakers.get(keys[0], speaker)))
    if not rows and not errors and not quiet:
        some = f"{next(iter(alignments.phones), '')!r} and {speech.files[0]!r}"
        errors.append(f"no recording is aligned: names such as {some}. Give those that belong together.")
    elif not quiet:
        data_folder.report_skips("recordings without alignment", bare)
        data_folder.report_skips(
            "alignments without recording", [key for key in alignments.phones if key not in users]
        )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return Speech(*columns), errors


def speakers_of(alignments: Alignments, source: Path, table: Path | None) -> None:
    """Set the speakers of an alignment: those of the table, or else its own, or else of a table beside it.

    Raises: ManifestError if the table that is given has no column of speakers.
    """
    if table is None and alignments.speakers:
        print(f"speakers: as {source.name} says", file=sys.stderr)
        return
    beside = source if source.is_dir() else source.parent
    candidates = [table] if table else sorted(path for path in beside.glob("*.tsv") if path != source)
    for path in candidates:
        lines = read_lines(path)
        columns = lines[0].split("\t") if lines else []
        if "speaker" not in columns[1:]:
            continue
        rows = [line.split("\t") for line in lines[1:]]
        column = columns.index("speaker")
        found = {row[0]: row[column] for row in rows if len(row) > column}
        known = {key: found.get(key, found.get(PurePosixPath(key).name, "")) for key in alignments.phones}
        if any(known.values()) or table:
            alignments.speakers = known
            print(f"speakers: column speaker of {path.name}", file=sys.stderr)
            return
    if table:
        raise ManifestError(table, ["no column 'speaker' in its first line, after that of the utterance."])
    print("speakers: as file names or folders say", file=sys.stderr)


def choose_splits(
    speakers: Sequence[str], held_out: Mapping[str, tuple[float, str]], seed: int
) -> dict[str, set[str]]:
    """Choose the speakers of each split; a held-out split without speakers is left out.

    held_out: for each split, its share of the speakers and the names of its speakers, separated by commas;
    names take precedence.
    Raises: ConfigError for unknown or repeated speakers, or if none is left to train on.
    """
    free, chosen, errors = set(speakers), {}, []
    for split, (share, text) in held_out.items():
        named = {name.strip() for name in text.split(",")} - {""}
        if not named <= free:
            errors.append(f"--{split}-speakers: got {sorted(named - free)}, wanted some of {sorted(free)}")
        if not 0 <= share < 1:
            errors.append(f"--{split}-share: got {share}, wanted 0 to 1")
        free -= named
        chosen[split] = named
    left = data_folder.shuffled(sorted(free), random.Random(seed))
    for split, (share, _) in held_out.items():
        if share > 0 and not chosen[split]:
            count = max(1, round(share * len(speakers)))
            chosen[split], left = set(left[:count]), left[count:]
    if not left or any(share > 0 and not chosen[split] for split, (share, _) in held_out.items()):
        errors.append(f"{len(speakers)} speakers are too few for these splits. Hold out fewer, or name them")
    if errors:
        raise ConfigError("aligned_phones", errors)
    return {"train": set(left), **{split: some for split, some in chosen.items() if some}}
