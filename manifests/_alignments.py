"""Phone alignments as they are found: TIMIT `.phn`, Praat TextGrid, tables, ABX items."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.errors import ManifestError

SILENCE = "sil"  # what a segment without a name becomes
SILENCES = frozenset(
    ("sil", "sp", "spn", "nsn", "<sil>", "<eps>", "+nsn+", "+spn+", "h#", "pau", "epi", "noise")
)
ROUNDING_S = 1e-6
# free-standing numbers, strings and flags: all that a TextGrid says, in its long form and in its short one
TEXTGRID_TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<!\S)([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|<(exists|absent)>'
)
# Lee and Hon 1989: 61 phones to 39, the glottal stop q dropped
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
    """One segment, in seconds. context: the phones before and after, where an item file says them."""

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
    """Segments by utterance, in the order of time; errors of the files they come from.

    An utterance is named as in a table, or by its file's path below the folder, without suffix.
    """

    kind: str
    phones: dict[str, list[Phone]] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, utterance: str, phone: Phone, place: str) -> None:
        """Note one segment. place: file and line, for the message if it cannot be."""
        if not 0 <= phone.start_s <= phone.end_s < math.inf:
            got = f"from {phone.start_s} s to {phone.end_s} s, wanted 0 ≤ start ≤ end"
            self.errors.append(f"{place}: {utterance}, {phone.phone!r} {got}. Align again.")
        if re.search(r"\s|^<(s|/s|pad|unk)>$", phone.phone):
            got = "holds a space" if re.search(r"\s", phone.phone) else "is a symbol of fairseq's dictionary"
            self.errors.append(f"{place}: phone {phone.phone!r} {got}. Name it otherwise.")
        self.phones.setdefault(utterance, []).append(phone)

    def finish(self, fold: str) -> Alignments:
        """Put segments in order, note those that overlap, give phones their folded names."""
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
    """Read a file or a folder of alignments; its errors are noted, not raised.

    tier: of TextGrids. Raises: ManifestError if there is nothing of a known kind, or more kinds than one.
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
    """The files of alignments at a path, by kind, sorted."""
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
    # a folder that this program wrote holds frame labels and items beside the table they are made of
    tables = {(file.parent, file.name[: -len("phones.tsv")].rstrip(".-")) for file in by_kind["table"]}
    for kind in ("phn", "items"):
        by_kind[kind] = [file for file in by_kind[kind] if (file.parent, file.stem) not in tables]
    return {kind: found for kind, found in by_kind.items() if found}


def _name(file: Path, top: Path) -> str:
    """What an alignment's file calls its utterance."""
    return file.stem if file == top else file.relative_to(top).with_suffix("").as_posix()


def _times(cells: Sequence[str], scale: float = 1.0) -> tuple[float, float] | None:
    try:
        return float(cells[0]) * scale, float(cells[1]) * scale
    except (ValueError, IndexError):
        return None


def _read_phn(alignments: Alignments, file: Path, top: Path, _: str) -> None:
    """`start end phone` a line, in samples."""
    for number, line in enumerate(read_lines(file), start=1):
        cells, place = line.split(), f"{file} line {number}"
        times = _times(cells, 1 / SAMPLE_RATE_HZ)
        if times is None or len(cells) != 3:
            alignments.errors.append(f"{place}: got {line!r}, wanted start and end in samples, and a phone.")
        else:
            alignments.add(_name(file, top), Phone(*times, cells[2]), place)


def _read_table(alignments: Alignments, file: Path, _: Path, __: str) -> None:
    """Utterance, start s, end s, phone, and perhaps the word, tab separated; a header may come first."""
    lines = read_lines(file)
    speaker = lines[0].split("\t").index("speaker") if lines and "speaker" in lines[0].split("\t") else 0
    for number, line in enumerate(lines, start=1):
        cells, place = line.split("\t"), f"{file} line {number}"
        times = _times(cells[1:])
        if times is None or len(cells) < 4 or not cells[0]:
            if number > 1:
                wanted = "wanted utterance, start s, end s, phone, tab separated"
                alignments.errors.append(f"{place}: got {line!r}, {wanted}.")
            continue
        word = cells[4] if len(cells) > 4 and speaker != 4 else ""
        alignments.add(cells[0], Phone(*times, cells[3].strip() or SILENCE, " ".join(word.split())), place)
        if speaker and len(cells) > speaker:
            alignments.speakers[cells[0]] = cells[speaker]


def _read_items(alignments: Alignments, file: Path, _: Path, __: str) -> None:
    """`file onset offset phone previous next speaker` a line, in seconds, after a header."""
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
    """The tier of phones; words from the tier `words`, if there is one."""
    tiers = dict(read_tiers(file))
    chosen = [name for name in tiers if name == tier or name.endswith(f" - {tier}")]
    if len(chosen) != 1:
        found = f"{len(chosen)} tiers {tier!r}" if chosen else f"no tier {tier!r}"
        alignments.errors.append(f"{file}: {found}; tiers are {list(tiers)}. Name one: --tier.")
        return
    words = [word for word in tiers.get(chosen[0][: -len(tier)] + "words", []) if word[2]]
    at = 0
    for number, (start_s, end_s, text) in enumerate(tiers[chosen[0]], start=1):
        middle_s = (start_s + end_s) / 2
        while at < len(words) and words[at][1] <= middle_s:
            at += 1
        inside = at < len(words) and words[at][0] <= middle_s
        phone = Phone(start_s, end_s, text or SILENCE, words[at][2] if inside else "")
        alignments.add(_name(file, top), phone, f"{file} interval {number}")


def read_tiers(file: Path) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """(name, intervals) of each interval tier of a TextGrid, long or short, UTF-8 or UTF-16.

    Raises: ManifestError if it is none.
    """
    raw = file.read_bytes()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        matches = TEXTGRID_TOKEN.finditer(raw.decode(encoding))
        tokens = (
            match[1].replace('""', '"') if match[2] is None else match[2] for match in matches if not match[3]
        )
        if [next(tokens, ""), next(tokens, "")] != ["ooTextFile", "TextGrid"]:
            raise ValueError("does not begin as one")
        _, _, count = next(tokens), next(tokens), int(next(tokens))
        for _ in range(count):
            tier_class, name, _, _ = (next(tokens) for _ in range(4))
            cells = 3 if tier_class == "IntervalTier" else 2
            rows = [[next(tokens) for _ in range(cells)] for _ in range(int(next(tokens)))]
            if cells == 3:
                yield name, [(float(row[0]), float(row[1]), " ".join(row[2].split())) for row in rows]
    except (ValueError, StopIteration, RuntimeError) as error:
        cause = str(error) if isinstance(error, ValueError) else "it ends too early"
        raise ManifestError(file, [f"no TextGrid: {cause}. Export it again from Praat or MFA."]) from error


READERS: dict[str, Callable[[Alignments, Path, Path, str], None]] = {
    "phn": _read_phn,
    "TextGrid": _read_textgrid,
    "table": _read_table,
    "items": _read_items,
}
