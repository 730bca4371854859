"""Readers of phone alignments: TIMIT's `.phn`, Praat's TextGrid, tables of phones, and ABX items.

TextGrids are parsed by praatio. It gives no error where a TextGrid of the short form is cut, or one of the
long form between two intervals. Therefore the numbers of tiers and entries that a file declares are compared
with those that praatio returns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.data.phones import read_phone_rows
from fairseq_mtssl.errors import ManifestError, MissingExtraError

SILENCE = "sil"  # the phone of a segment whose label is empty
SILENCES = frozenset(
    ("sil", "sp", "spn", "nsn", "<sil>", "<eps>", "+nsn+", "+spn+", "h#", "pau", "epi", "noise")
)
PHONE_CELLS = 4  # of a line of a table: utterance, start s, end s, phone
ROUNDING_S = 1e-6
# what a TextGrid declares, in its long and its short form: how many tiers, and how many entries each tier has
TEXTGRID_TIERS = re.compile(r"<exists>\s+(?:size = )?(\d+)")
TEXTGRID_ENTRIES = re.compile(
    r'"(?:Interval|Text)Tier"\s+(?:name = )?"(?:[^"]|"")*"\s+(?:xmin = )?\S+\s+(?:xmax = )?\S+\s+'
    r"(?:\w+: size = )?(\d+)"
)
EXPONENT = re.compile(r"(?<=\s)\d+(?:\.\d*)?[eE][-+]?\d+(?=\s*$)", re.M)
# Lee and Hon 1989: 61 phones become 39, and the glottal stop q is dropped
TIMIT_39 = {
    **dict.fromkeys(("pcl", "tcl", "kcl", "bcl", "dcl", "gcl", "h#", "pau", "epi"), SILENCE),
    **{"ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "ux": "uw"},
    **{"el": "l", "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh"},
}
FOLDS: dict[str, Callable[[str], str | None]] = {
    "none": lambda phone: phone,
    "stress": lambda phone: phone.rstrip("012") or phone,
    "timit39": lambda phone: None if phone == "q" else TIMIT_39.get(phone, phone),
}


@dataclass(frozen=True)
class Phone:
    """One segment, in seconds. context: the previous and the next phone, if an item file gives them."""

    start_s: float
    end_s: float
    phone: str
    word: str = ""
    context: tuple[str, str] | None = None

    @property
    def is_silence(self) -> bool:
        return self.phone.lower() in SILENCES


@dataclass
class Alignments:
    """Segments of each utterance, in the order of time, and the errors of the files that hold them.

    An utterance has the name that a table or an item file gives it, or else the path of its file below the
    folder, without the suffix.
    """

    kind: str
    phones: dict[str, list[Phone]] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, utterance: str, phone: Phone, place: str) -> None:
        """Add one segment, and an error if it is not valid. place: file and line, for the message."""
        if not 0 <= phone.start_s <= phone.end_s < math.inf:
            got = f"from {phone.start_s} s to {phone.end_s} s, wanted 0 ≤ start ≤ end"
            self.errors.append(f"{place}: {utterance}, {phone.phone!r} {got}. Align again.")
        if re.search(r"\s|^<(s|/s|pad|unk)>$", phone.phone):
            got = "holds a space" if re.search(r"\s", phone.phone) else "is a symbol of fairseq's dictionary"
            self.errors.append(f"{place}: phone {phone.phone!r} {got}. Name it otherwise.")
        self.phones.setdefault(utterance, []).append(phone)

    def finish(self, fold: str) -> Alignments:
        """Sort the segments, add an error where two overlap, and rename the phones as the fold says."""
        rename = FOLDS[fold]
        for utterance, phones in self.phones.items():
            phones.sort(key=lambda phone: (phone.start_s, phone.end_s))
            for before, after in zip(phones, phones[1:]):
                if after.start_s < before.end_s - ROUNDING_S:
                    hint = "Give items of single phones." if self.kind == "items" else "Align again."
                    self.errors.append(
                        f"{utterance}: {after.phone!r} at {after.start_s} s overlaps {before.phone!r}, which "
                        f"ends at {before.end_s} s. {hint}"
                    )
                    break
            self.phones[utterance] = [
                replace(phone, phone=name, context=_folded(phone.context, rename))
                for phone in phones
                if (name := rename(phone.phone)) is not None
            ]
        return self


def _folded(context: tuple[str, str] | None, rename: Callable[[str], str | None]) -> tuple[str, str] | None:
    return context and (rename(context[0]) or context[0], rename(context[1]) or context[1])


def read_alignments(path: Path, *, tier: str, fold: str) -> Alignments:
    """Read a file or a folder of alignments. Errors of single files are collected in the result.

    tier: the name of the tier of phones in TextGrids. fold: a key of FOLDS.
    Raises: ManifestError if there is no file of a known kind, or if there are several kinds.
    """
    by_kind = find_files(path)
    if len(by_kind) != 1:
        found = f"{', '.join(by_kind)} side by side" if by_kind else "no alignments"
        wanted = "wanted .phn, .TextGrid, a table (….phones.tsv or phones.tsv) or an item file (.item)"
        raise ManifestError(path, [f"{found}, {wanted}. Name the file, or a folder that holds one kind."])
    [(kind, files)] = by_kind.items()
    alignments = Alignments(kind)
    for file in files:
        try:
            READERS[kind](alignments, file, path, tier)
        except ManifestError as error:
            alignments.errors += [f"{file}: {error}" for error in error.errors]
    if not alignments.phones and not alignments.errors:
        raise ManifestError(path, ["holds no phones. Check that it is an alignment."])
    return alignments.finish(fold)


def find_files(path: Path) -> dict[str, list[Path]]:
    """The alignment files at a path, sorted, by kind."""
    if path.is_file():
        kind = {".phn": "phn", ".textgrid": "TextGrid", ".item": "items"}.get(path.suffix.lower(), "table")
        if kind == "table" and read_lines(path)[:1] and read_lines(path)[0].startswith("#file"):
            kind = "items"
        return {kind: [path]}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    by_kind = {
        "phn": [file for file in files if file.suffix.lower() == ".phn"],
        "TextGrid": [file for file in files if file.suffix.lower() == ".textgrid"],
        "table": [file for file in files if re.fullmatch(r"(.*[.-])?phones\.tsv", file.name)],
        "items": [file for file in files if file.suffix == ".item"],
    }
    # a data folder that has phones holds frame labels and items as well, which were made from the table
    tables = {(file.parent, file.name[: -len("phones.tsv")].rstrip(".-")) for file in by_kind["table"]}
    for kind in ("phn", "items"):
        by_kind[kind] = [file for file in by_kind[kind] if (file.parent, file.stem) not in tables]
    return {kind: found for kind, found in by_kind.items() if found}


def _name(file: Path, top: Path) -> str:
    """The name of the utterance that a file aligns."""
    return file.stem if file == top else file.relative_to(top).with_suffix("").as_posix()


def _times(cells: Sequence[str], scale: float = 1.0) -> tuple[float, float] | None:
    try:
        return float(cells[0]) * scale, float(cells[1]) * scale
    except (ValueError, IndexError):
        return None


def _read_phn(alignments: Alignments, file: Path, top: Path, _: str) -> None:
    """Each line is `start end phone`, in samples."""
    for number, line in enumerate(read_lines(file), start=1):
        cells, place = line.split(), f"{file} line {number}"
        times = _times(cells, 1 / SAMPLE_RATE_HZ)
        if times is None or len(cells) != 3:
            alignments.errors.append(f"{place}: got {line!r}, wanted start and end in samples, and a phone.")
        else:
            alignments.add(_name(file, top), Phone(*times, cells[2]), place)


def _read_table(alignments: Alignments, file: Path, _: Path, __: str) -> None:
    """Each line has utterance, start s, end s, phone and optionally the word, separated by tabs.

    The first line may be a header, in which a column `speaker` can be named.
    """
    rows, errors = read_phone_rows(file)
    alignments.errors += [f"{file} {error}" for error in errors]
    header = (read_lines(file)[:1] or [""])[0].split("\t")
    speaker = header.index("speaker") - PHONE_CELLS if "speaker" in header[PHONE_CELLS:] else None
    for row in rows:
        word = row.others[0] if row.others and speaker != 0 else ""
        phone = Phone(row.start_s, row.end_s, row.phone.strip() or SILENCE, " ".join(word.split()))
        alignments.add(row.utterance, phone, f"{file} line {row.line}")
        if speaker is not None and len(row.others) > speaker:
            alignments.speakers[row.utterance] = row.others[speaker]


def _read_items(alignments: Alignments, file: Path, _: Path, __: str) -> None:
    """After a header, each line is `file onset offset phone previous next speaker`, in seconds."""
    for number, line in enumerate(read_lines(file)[1:], start=2):
        cells, place = line.split(), f"{file} line {number}"
        times = _times(cells[1:])
        if times is None or len(cells) != 7:
            wanted = "wanted file, onset s, offset s, phone, previous, next, speaker"
            alignments.errors.append(f"{place}: got {line!r}, {wanted}.")
            continue
        alignments.add(cells[0], Phone(*times, cells[3], context=(cells[4], cells[5])), place)
        if alignments.speakers.setdefault(cells[0], cells[6]) != cells[6]:
            first = alignments.speakers[cells[0]]
            alignments.errors.append(f"{place}: {cells[0]} is by {cells[6]}, but by {first} above. Name one.")


def _read_textgrid(alignments: Alignments, file: Path, top: Path, tier: str) -> None:
    """Take the phones of one tier, and the words of the tier `words` of the same speaker if there is one."""
    tiers = read_tiers(file)
    names = [name for name, _ in tiers]
    chosen = [name for name in names if name == tier or name.endswith(f" - {tier}")]
    if len(chosen) != 1:
        found = f"{len(chosen)} tiers {tier!r}" if chosen else f"no tier {tier!r}"
        alignments.errors.append(f"{file}: {found}; tiers are {names}. Name one: --tier.")
        return
    intervals = dict(tiers)
    words = [word for word in intervals.get(chosen[0][: -len(tier)] + "words", []) if word[2]]
    at = 0
    for number, (start_s, end_s, text) in enumerate(intervals[chosen[0]], start=1):
        middle_s = (start_s + end_s) / 2
        while at < len(words) and words[at][1] <= middle_s:
            at += 1
        inside = at < len(words) and words[at][0] <= middle_s
        phone = Phone(start_s, end_s, text or SILENCE, words[at][2] if inside else "")
        alignments.add(_name(file, top), phone, f"{file} interval {number}")


def read_tiers(file: Path) -> list[tuple[str, list[tuple[float, float, str]]]]:
    """Read the interval tiers of a TextGrid, of the long or the short form, in UTF-8 or UTF-16.

    Returns: name and intervals (start s, end s, label) of each tier; empty labels are kept.
    Raises: ManifestError if the file is no TextGrid; MissingExtraError if praatio is not installed.
    """
    try:
        from praatio.utilities import errors, textgrid_io
    except ImportError as error:
        raise MissingExtraError("reading TextGrids", "praatio", "corpora") from error
    raw = file.read_bytes()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        # praatio refuses exponents, which Praat writes for times near 0, and drops a last line without an end
        text = EXPONENT.sub(lambda number: f"{float(number[0]):.12f}", raw.decode(encoding)) + "\n"
        if '"TextGrid"' not in text[:200]:
            raise ValueError("it does not begin as one")
        tiers = textgrid_io.parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        declared, counts = TEXTGRID_ENTRIES.findall(text), [len(tier["entries"]) for tier in tiers]
        if TEXTGRID_TIERS.findall(text) != [str(len(tiers))] or declared != [str(count) for count in counts]:
            raise ValueError(f"it ends too early, or declares other numbers than its {counts} intervals")
        return [
            (tier["name"], [(float(a), float(b), " ".join(label.split())) for a, b, label in tier["entries"]])
            for tier in tiers
            if tier["class"] == "IntervalTier"
        ]
    except (ValueError, IndexError, errors.PraatioException) as error:
        cause = str(error)
        if not isinstance(error, ValueError):
            cause = f"it ends too early, or a line of it is missing ({error})"
        raise ManifestError(file, [f"no TextGrid: {cause}. Export it again from Praat or MFA."]) from error


READERS: dict[str, Callable[[Alignments, Path, Path, str], None]] = {
    "phn": _read_phn,
    "TextGrid": _read_textgrid,
    "table": _read_table,
    "items": _read_items,
}
