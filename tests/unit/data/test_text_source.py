"""The normal form of text, and the file from which the text of a split is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest
from fairseq_mtssl.data.text_source import normalise_text, read_split_texts, read_text_table
from fairseq_mtssl.errors import ManifestError


def write_manifest(folder: Path, split: str, files: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.tsv").write_text("audio\n" + "".join(f"{file}\t16000\n" for file in files))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Hello,  world!", "HELLO WORLD"),
        ("don’t — it's well-known", "DON'T IT'S WELL KNOWN"),
        ("ﬁve ｗide straße", "FIVE WIDE STRASSE"),
        ("a|b ▁c <s>", "A B C S"),
        ("co\u00adop \u200b ' ''", "COOP"),
        ("3,000 cafe\u0301", "3 000 CAFÉ"),
        ("?!… \t", ""),
    ],
)
def test_text_is_normalised_to_upper_case_words(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    normal = normalise_text(text)
    assert normalise_text(normal) == normal
    assert normal == " ".join(normal.split()) and "|" not in normal and "▁" not in normal


def test_a_wrd_file_comes_before_the_pairs_and_a_table_before_both(tmp_path: Path) -> None:
    rows = [
        PairRow(f"{name}.wav", 1600, name, f"{name}.png", name, text=f"pairs, {name}")
        for name in ("u1", "u2")
    ]
    write_pair_manifest(tmp_path, "train", rows)
    split = read_split_texts(tmp_path, ["train"])["train"]
    assert (split.source.name, split.texts, split.changed) == ("train.pairs", ["PAIRS U1", "PAIRS U2"], 2)
    (tmp_path / "train.wrd").write_text("WORDS ONE\nwords two\n")
    split = read_split_texts(tmp_path, ["train"])["train"]
    assert (split.source.name, split.texts, split.changed) == ("train.wrd", ["WORDS ONE", "WORDS TWO"], 1)
    table = tmp_path / "text.tsv"
    table.write_text(
        "utt\tspeaker\twords\tphones\nu2\ts\ttable two\tT\nu1\ts\ttable one\tT\nother\ts\tx\tT\n"
    )
    assert read_split_texts(tmp_path, ["train"], table)["train"].texts == ["TABLE ONE", "TABLE TWO"]


def test_errors_of_all_splits_are_reported_together(tmp_path: Path) -> None:
    for split in ("train", "valid", "test", "dev"):
        write_manifest(tmp_path, split, ["a.wav", "b.wav", "c.wav"])
    (tmp_path / "train.wrd").write_text("ONE\n?!\nTHREE\n")
    (tmp_path / "valid.wrd").write_text("ONE\n")
    (tmp_path / "dev.tsv").write_text("audio\na.wav\t0\n")
    with pytest.raises(ManifestError) as caught:
        read_split_texts(tmp_path, ["train", "valid", "test", "dev", "none"])
    assert len(caught.value.errors) == 5
    text = str(caught.value)
    for part in (
        "train.wrd line 2: got '?!', wanted words",
        "valid.wrd has 1 rows, valid.tsv has 3",
        "test: neither test.wrd nor test.pairs exists. Give --text",
        "dev.tsv line 2: got size '0'",
        "none.tsv cannot be read",
    ):
        assert part in text


def test_empty_texts_of_pairs_are_named_by_their_line(tmp_path: Path) -> None:
    rows = [PairRow(f"{i}.wav", 1600, str(i), "i.png", "i", text="x" if i else "") for i in range(2)]
    write_pair_manifest(tmp_path, "train", rows)
    with pytest.raises(ManifestError, match="train.pairs line 3: got '', wanted words"):
        read_split_texts(tmp_path, ["train"])


def test_a_table_must_have_every_recording_once(tmp_path: Path) -> None:
    write_manifest(tmp_path, "train", ["x/a.wav", "y/a.wav", "b.flac", "c.wav"])
    table = tmp_path / "text.tsv"
    table.write_text("id\ttext\na\tone\nc\t...\n")
    with pytest.raises(ManifestError) as caught:
        read_split_texts(tmp_path, ["train"], table)
    assert caught.value.errors == [
        "train.tsv line 3: 'a' is also line 2. Write a .wrd instead.",
        "train.tsv line 4: text.tsv has no id 'b'. Add its text.",
    ]


def test_a_faulty_table_is_refused_with_its_lines(tmp_path: Path) -> None:
    table = tmp_path / "text.tsv"
    table.write_text("name\ttext\n")
    with pytest.raises(ManifestError, match=r"line 1: got columns \['name', 'text'\]"):
        read_text_table(table)
    table.write_text("id\ttext\na\tone\nb\na\ttwo\n")
    with pytest.raises(ManifestError) as caught:
        read_text_table(table)
    assert caught.value.errors == [
        "line 3: got 1 columns, wanted 2: 'b'.",
        "line 4: 'a' is already on line 2. Keep one.",
    ]
