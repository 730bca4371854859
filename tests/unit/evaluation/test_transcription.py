"""Word and character error rates against counts by hand."""

from __future__ import annotations

import pytest

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.transcription import evaluate_transcription

pytest.importorskip("jiwer")


def test_errors_are_those_counted_by_hand() -> None:
    # one substitution (SAT/SIT), one insertion (THE); one deletion (DOG); silence deletes all of one word
    references = ["THE CAT SAT", "A DOG", "YES"]
    result = evaluate_transcription(references, ["THE CAT SIT THE", "A", ""])
    assert (result.substitutions, result.deletions, result.insertions) == (1, 2, 1)
    assert (result.utterances, result.words, result.characters) == (3, 6, 19)
    assert result.wer == pytest.approx(100 * 4 / 6)
    # characters: A for I, " THE" inserted, " DOG" and YES deleted
    assert result.cer == pytest.approx(100 * (1 + 4 + 4 + 3) / 19)
    assert result.to_json()["wer"] == 66.666667
    assert result.format_table().split("\n")[1].split() == ["3", "6", "66.67", "63.16", "1", "2", "1"]


def test_equal_texts_have_no_error_and_insertions_may_pass_100_percent() -> None:
    assert evaluate_transcription(["A B"], ["A B"]).wer == 0
    assert evaluate_transcription(["A"], ["A B C"]).wer == 200


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ([], [], "0 hypotheses for 0 references"),
        (["A"], ["A", "B"], "2 hypotheses for 1 references"),
        (["A", " "], ["A", "B"], "reference 2 has no word"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    references: list[str], hypotheses: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_transcription(references, hypotheses)
