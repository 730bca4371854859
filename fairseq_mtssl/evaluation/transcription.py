"""Word and character error rates of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairseq_mtssl.errors import ConfigError, import_extra


@dataclass(frozen=True)
class TranscriptionResult:
    """Error rates over all utterances together.

    wer, cer: in percent of the words and of the characters, including spaces between words.
    words, characters: numbers in the references. substitutions, deletions, insertions: numbers of words.
    """

    utterances: int
    wer: float
    cer: float
    words: int
    characters: int
    substitutions: int
    deletions: int
    insertions: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields, with percentages rounded to six decimals."""
        return asdict(self) | {"wer": round(self.wer, 6), "cer": round(self.cer, 6)}

    def format_table(self) -> str:
        """Return a table of two lines: names and numbers."""
        names = ("utterances", "words", "WER %", "CER %", "subst.", "del.", "ins.")
        numbers = (
            *(f"{self.utterances}", f"{self.words}", f"{self.wer:.2f}", f"{self.cer:.2f}"),
            *(f"{count}" for count in (self.substitutions, self.deletions, self.insertions)),
        )
        return "\n".join(" ".join(f"{cell:>10}" for cell in row) for row in (names, numbers))


def evaluate_transcription(references: Sequence[str], hypotheses: Sequence[str]) -> TranscriptionResult:
    """Measure the errors of hypotheses against references, row by row, with jiwer; spaces separate words.

    Raises: ConfigError if the numbers of rows differ, if there are no rows or a reference is empty,
    MissingExtraError without jiwer.
    """
    if not references or len(references) != len(hypotheses):
        got = f"{len(hypotheses)} hypotheses for {len(references)} references"
        raise ConfigError("transcription", [f"{got}; row i of each is one utterance, wanted one or more"])
    empty = [row for row, reference in enumerate(references, start=1) if not reference.split()]
    if empty:
        raise ConfigError("transcription", [f"reference {row} has no word; leave it out" for row in empty])
    jiwer = import_jiwer()
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    return TranscriptionResult(
        utterances=len(references),
        wer=100 * words.wer,
        cer=100 * characters.cer,
        words=words.hits + words.substitutions + words.deletions,
        characters=characters.hits + characters.substitutions + characters.deletions,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
    )


def import_jiwer() -> Any:
    """Import jiwer; a long job calls it first, to fail early. Raises: MissingExtraError without it."""
    return import_extra("jiwer", "measuring word errors", "jiwer", "decode")
