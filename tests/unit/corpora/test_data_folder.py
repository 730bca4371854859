from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fairseq_mtssl.corpora import data_folder as corpus
from fairseq_mtssl.corpora.base import run_script
from fairseq_mtssl.data.manifest import PairRow
from fairseq_mtssl.errors import ConfigError, ManifestError

REQUEST = {"script": "test", "seed": 1}


def make(out: Path) -> None:
    corpus.begin(out)
    (out / "a.txt").write_text("a")
    corpus.finish(out, REQUEST, ["a.txt"], counts=1)


def test_shuffling_is_a_permutation_that_the_seed_decides() -> None:
    mixed = corpus.shuffled(range(20), random.Random(3))
    assert sorted(mixed) == list(range(20))
    assert mixed == corpus.shuffled(range(20), random.Random(3))
    assert mixed != corpus.shuffled(range(20), random.Random(4))


def test_choices_are_the_same_on_every_machine() -> None:
    # pinned: Python promises that Random(seed).random() never changes
    assert corpus.shuffled("abcdef", random.Random("0/test")) == list("fcbeda")
    rng = random.Random(0)
    assert "".join(corpus.pick("abc", rng) for _ in range(8)) == "ccbabbca"


def test_every_item_can_be_picked() -> None:
    rng = random.Random(0)
    assert {corpus.pick("abc", rng) for _ in range(100)} == {"a", "b", "c"}


def test_a_corpus_is_made_once_its_record_is_written(tmp_path: Path) -> None:
    assert not corpus.is_made(tmp_path, REQUEST)
    make(tmp_path)
    assert corpus.is_made(tmp_path, REQUEST)
    assert not corpus.is_made(tmp_path, {**REQUEST, "seed": 2})


def test_a_corpus_that_lost_a_file_is_not_made(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a.txt").unlink()
    assert not corpus.is_made(tmp_path, REQUEST)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}'])
def test_a_folder_with_a_broken_record_counts_as_not_made(tmp_path: Path, text: str) -> None:
    (tmp_path / "corpus.json").write_text(text)
    assert not corpus.is_made(tmp_path, REQUEST)


def test_beginning_removes_what_the_record_lists_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    (out / "mine.txt").write_text("mine")
    outside = tmp_path / "outside.txt"
    outside.write_text("not yours")
    record = json.loads((out / "corpus.json").read_text())
    record["files"] |= {"../outside.txt": "", str(outside): ""}
    (out / "corpus.json").write_text(json.dumps(record))
    corpus.begin(out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert outside.exists()


def test_the_record_holds_request_facts_and_checksums(tmp_path: Path) -> None:
    make(tmp_path)
    record = json.loads((tmp_path / "corpus.json").read_text())
    assert record["request"] == REQUEST
    assert record["counts"] == 1
    # sha256 of "a"
    assert record["files"]["a.txt"].startswith("ca978112ca1bbdca")
    (tmp_path / "a.txt").write_text("b")
    changed = corpus.finish(tmp_path, REQUEST, ["a.txt"])
    assert changed["sha256"] != record["sha256"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        corpus.begin(tmp_path / "out")


def test_splits_are_written_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [PairRow("a.wav", 1, "c1", "x.png", "x"), PairRow("b.wav", 1, "c2", "x.png", "x")]
    files, counts = corpus.write_splits(tmp_path, {"train": rows})
    assert counts == {"train": {"captions": 2, "images": 1}}
    assert files == ["train.tsv", "train.pairs", "images/x.png", "audio/a.wav", "audio/b.wav"]
    assert "train: 2 captions, 1 images" in capsys.readouterr().out


def test_skips_are_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    corpus.report_skips("files", [])
    assert capsys.readouterr().err == ""
    corpus.report_skips("files", [f"f{i}" for i in range(7)])
    assert capsys.readouterr().err == "skipped 7 files: f0, f1, f2, f3, f4 … and 2 more\n"


def test_a_script_ends_with_one_message_instead_of_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ManifestError("pairs.tsv", ["line 1: wrong"])

    assert run_script(fail) == 1
    assert capsys.readouterr().err == "error: pairs.tsv: 1 error\n  line 1: wrong\n"
    assert run_script(lambda: None) == 0
