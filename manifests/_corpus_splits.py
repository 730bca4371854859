"""Recordings found, matched with their alignments, given speakers, and split so that no speaker is in two."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from _alignments import Alignments

from fairseq_mtssl.data import corpus
from fairseq_mtssl.data.manifest import pairs_path, read_audio_manifest, read_lines, read_pair_manifest
from fairseq_mtssl.errors import ConfigError, ManifestError

AUDIO_SUFFIXES = (".wav", ".flac")
LIBRISPEECH_NAME = re.compile(r"(\d+)-\d+-\d+")


@dataclass(frozen=True)
class Speech:
    """Recordings, one a row.

    files: relative to the audio root; names: the file's name without suffix, or the caption id; keys: what
    the alignment calls them; speakers: "" if unknown.
    """

    files: list[str]
    names: list[str]
    keys: list[str]
    speakers: list[str]

    def link(self, root: Path, out: Path) -> dict[str, str]:
        """Link recordings in out/audio where names of files repeat. Returns: file -> name of its link."""
        if all(PurePosixPath(file).stem == name for file, name in zip(self.files, self.names, strict=True)):
            return {}
        links = {file: link_name(file) for file in self.files}
        (out / "audio").mkdir(parents=True, exist_ok=True)
        for file, name in links.items():
            (out / "audio" / name).unlink(missing_ok=True)
            (out / "audio" / name).symlink_to((root / file).absolute())
        return links


def link_name(file: str) -> str:
    """`DR1/FCJF0/SA1.WAV` as one name: `DR1_FCJF0_SA1.WAV`."""
    return "_".join(PurePosixPath(file).parts)


def without_suffixes(file: str) -> str:
    """A path without the suffixes of audio: some copies of TIMIT call a file SA1.WAV.wav."""
    path = PurePosixPath(file)
    while path.suffix.lower() in AUDIO_SUFFIXES:
        path = path.with_suffix("")
    return str(path)


def read_recordings(root: Path, out: Path, suffix: str) -> Speech:
    """Every wav and flac below a folder, in the order of paths; what is below `out` is not looked at.

    Raises: ManifestError if there is none, or two have the same name in the same folder.
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
    """Speakers as LibriSpeech's file names say, or the folders of the recordings, if there are several."""
    stems = [LIBRISPEECH_NAME.fullmatch(PurePosixPath(file).stem) for file in files]
    if all(stems):
        return [match[1] for match in stems if match]
    folders = [PurePosixPath(file).parent.name for file in files]
    return folders if all(folders) and len(set(folders)) > 1 else [""] * len(files)


def read_data_splits(data: Path, names: str | None) -> dict[str, tuple[Speech, dict[str, int]]]:
    """The splits of a data folder, and samples by file. Raises: ManifestError if there is none."""
    if names is None:
        tables = [path for path in sorted(data.glob("*.tsv")) if "." not in path.stem]
        chosen = [path.stem for path in tables if "\t" not in (read_lines(path)[:1] or ["\t"])[0]]
    else:
        chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise ManifestError(data, ["no {split}.tsv. Make it with a script of manifests/, or give --audio."])
    splits: dict[str, tuple[Speech, dict[str, int]]] = {}
    for split in chosen:
        manifest = read_audio_manifest(data / f"{split}.tsv")
        captions, speakers = [Path(file).stem for file in manifest.files], folder_speakers(manifest.files)
        if pairs_path(manifest.path).is_file():
            pairs = read_pair_manifest(data, split)
            captions, speakers = pairs.caption_ids, pairs.speakers
        sizes = dict(zip(manifest.files, manifest.sizes.tolist(), strict=True))
        splits[split] = Speech(manifest.files, captions, [], speakers), sizes
    return splits


def match(speech: Speech, alignments: Alignments, quiet: bool = False) -> tuple[Speech, list[str]]:
    """The recordings that are aligned, with keys and speakers, and errors.

    A recording is aligned by the key that shares the most folders with its path, from the end, and its name;
    a caption id that is a key comes first. Alignments without recording, and the reverse, are told unless
    quiet.
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
        corpus.report_skips("recordings without alignment", bare)
        corpus.report_skips(
            "alignments without recording", [key for key in alignments.phones if key not in users]
        )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return Speech(*columns), errors


def speakers_of(alignments: Alignments, source: Path, table: Path | None) -> None:
    """Give an alignment its speakers: those of a table, else its own, else of a table beside it.

    Raises: ManifestError if the table named is none of speakers.
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
    """Speakers by split: train and those held out that get any.

    held_out: split -> share of the speakers, or their names (comma-separated), which come first.
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
    left = corpus.shuffled(sorted(free), random.Random(seed))
    for split, (share, _) in held_out.items():
        if share > 0 and not chosen[split]:
            count = max(1, round(share * len(speakers)))
            chosen[split], left = set(left[:count]), left[count:]
    if not left or any(share > 0 and not chosen[split] for split, (share, _) in held_out.items()):
        errors.append(f"{len(speakers)} speakers are too few for these splits. Hold out fewer, or name them")
    if errors:
        raise ConfigError("aligned_phones", errors)
    return {"train": set(left), **{split: some for split, some in chosen.items() if some}}
