"""`mtssl prepare-text` from manifests to everything that fine-tuning and decoding read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fairseq_mtssl.cli.main import main

TRAIN, VALID = ["Hello, world!", "old world"], ["HOLD A WORD"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, texts in (("train", TRAIN), ("valid", VALID)):
        rows = "".join(f"{split}{i}.wav\t16000\n" for i in range(len(texts)))
        (folder / f"{split}.tsv").write_text(f"audio\n{rows}")
        (folder / f"{split}.wrd").write_text("".join(f"{text}\n" for text in texts))
    return folder


def prepare(data: Path, *more: str) -> int:
    return main(["prepare-text", "--data", str(data), *more])


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir()}


def test_letters_dictionary_and_lexicon(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(data, "--splits", "train") == 0
    assert (data / "train.wrd").read_text() == "HELLO WORLD\nOLD WORLD\n"
    assert (data / "train.ltr").read_text() == "H E L L O | W O R L D |\nO L D | W O R L D |\n"
    assert (data / "dict.ltr.txt").read_text() == "L 5\nO 4\n| 4\nD 3\nR 2\nW 2\nE 1\nH 1\n"
    assert (data / "lexicon.ltr.lst").read_text() == (
        "HELLO\tH E L L O |\nOLD\tO L D |\nWORLD\tW O R L D |\n"
    )
    assert "train: 2 texts of train.wrd, 4 words, 2 of them changed" in capsys.readouterr().out


def test_fairseq_and_the_task_read_what_is_written(data: Path) -> None:
    from fairseq.data import Dictionary

    from fairseq_mtssl.data.dictionary import read_symbols
    from fairseq_mtssl.data.manifest import read_audio_manifest
    from fairseq_mtssl.data.transcripts import read_transcripts

    assert prepare(data, "--splits", "train") == 0
    dictionary = Dictionary.load(str(data / "dict.ltr.txt"))
    assert dictionary.symbols[:6] == ["<s>", "<pad>", "</s>", "<unk>", "L", "O"]
    assert read_symbols(data / "dict.ltr.txt", "symbol", "") == dictionary.symbols[4:]
    spelled = read_transcripts(data / "train.ltr", read_audio_manifest(data / "train.tsv"), dictionary)
    assert dictionary.string(spelled[1]) == "O L D | W O R L D |"


def test_nothing_of_other_splits_gets_into_dictionary_or_lexicon(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(data) == 0
    assert not any(line.startswith("A ") for line in (data / "dict.ltr.txt").read_text().splitlines())
    assert "HOLD" not in (data / "lexicon.ltr.lst").read_text()
    printed = capsys.readouterr().out
    assert (
        "valid: 1 of 1 rows, the first on line 1, hold symbols that the dictionary lacks: 'A' (1)" in printed
    )
    assert (data / "valid.ltr").read_text() == "H O L D | A | W O R D |\n"


@pytest.mark.parametrize("units", [(), ("--units", "sentencepiece", "--vocab-size", "11")])
def test_preparing_text_again_writes_the_same_bytes(data: Path, units: tuple[str, ...]) -> None:
    if units:
        pytest.importorskip("sentencepiece")
    assert prepare(data, *units) == 0
    first = contents(data)
    assert prepare(data, *units) == 0
    assert contents(data) == first


def test_a_split_can_be_added_later(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(data, "--splits", "valid") == 2
    assert "dict.ltr.txt" in capsys.readouterr().err
    assert prepare(data, "--splits", "train") == 0
    before = contents(data)
    assert prepare(data, "--splits", "valid") == 0
    changed = {name for name, content in contents(data).items() if before.get(name) != content}
    assert changed == {"valid.ltr"}
    assert prepare(data, "--splits", "valid", "--words", str(data / "valid.wrd")) == 2
    assert "name it in --splits" in capsys.readouterr().err


def test_a_dictionary_and_further_words_can_be_given(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    symbols, words = tmp_path / "dict.ltr.txt", tmp_path / "words.txt"
    symbols.write_text("".join(f"{symbol} 1\n" for symbol in "|ADEHLORW"))
    words.write_text("hold\nzoo\n")
    assert prepare(data, "--dictionary", str(symbols), "--words", str(words)) == 0
    assert (data / "dict.ltr.txt").read_bytes() == symbols.read_bytes()
    assert "HOLD\tH O L D |\n" in (data / "lexicon.ltr.lst").read_text()
    printed = capsys.readouterr().out
    assert "left out 1 of 5 words with symbols that the dictionary lacks: ZOO" in printed
    assert "valid:" in printed and "valid: 1 of 1 rows" not in printed
    symbols.write_text("| 1\nA 1\n")
    assert prepare(data, "--dictionary", str(symbols)) == 2
    assert "train.wrd: 1 error\n  2 of 2 rows, the first on line 1, hold symbols" in capsys.readouterr().err
    symbols.write_text("| 1\nA\n<s> 3\n")
    assert prepare(data, "--dictionary", str(symbols)) == 2
    error = capsys.readouterr().err
    assert "line 2: got 'A'" in error and "line 3: got '<s> 3'" in error


def test_sentencepiece_units_and_a_model_of_other_text(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    assert prepare(data, "--units", "sentencepiece", "--vocab-size", "11") == 0
    pieces = (data / "train.spm").read_text().splitlines()
    assert ["".join(line.split()).replace("▁", " ").strip() for line in pieces] == [
        "HELLO WORLD",
        "OLD WORLD",
    ]
    symbols = [line.rsplit(" ", 1) for line in (data / "dict.spm.txt").read_text().splitlines()]
    assert len(symbols) == 10 and sum(int(count) for _, count in symbols) == len(" ".join(pieces).split())
    word, _, spelling = (data / "lexicon.spm.lst").read_text().splitlines()[0].partition("\t")
    assert (word, spelling.replace(" ", "")) == ("HELLO", "▁HELLO")
    model = data / "spm.model"
    # the same model for a split prepared later, and for another corpus
    before = contents(data)
    assert prepare(data, "--units", "sentencepiece", "--splits", "valid") == 0
    assert contents(data) == before
    model.rename(tmp_path / "other.model")
    assert prepare(data, "--units", "sentencepiece", "--model", str(tmp_path / "other.model")) == 0
    assert contents(data) == before


def test_a_model_that_cannot_spell_the_training_text_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentencepiece")
    assert prepare(data, "--units", "sentencepiece", "--vocab-size", "11") == 0
    (data / "spm.model").rename(tmp_path / "other.model")
    (data / "train.wrd").write_text("JUMP\nOLD\n")
    arguments = ("--units", "sentencepiece", "--model", str(tmp_path / "other.model"))
    assert prepare(data, *arguments) == 2
    assert "train.wrd: 1 error\n  1 of 2 rows, the first on line 1" in capsys.readouterr().err
    assert not (data / "spm.model").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "m"), "--model: is for --units sentencepiece"),
        (("--units", "sentencepiece", "--model", "none.model"), "none.model: cannot be read"),
        (("--units", "sentencepiece", "--vocab-size", "900"), "900 does not fit these texts"),
        (("--splits", "train,train"), "each once"),
        (("--text", "none.tsv"), "none.tsv"),
        (("--dictionary", "none.txt"), "none.txt"),
    ],
)
def test_faults_are_one_message_and_nothing_is_written(
    data: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--vocab-size" in more:
        pytest.importorskip("sentencepiece")
    before = contents(data)
    assert prepare(data, *more) == 2
    assert message in capsys.readouterr().err
    assert contents(data) == before


def test_without_sentencepiece_the_extra_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert prepare(data, "--units", "sentencepiece") == 2
    assert "fairseq-mtssl[text]" in capsys.readouterr().err
