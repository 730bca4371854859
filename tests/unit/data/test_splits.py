"""Splits of a data folder, as commands take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_mtssl.data.manifest import find_splits, utterance_ids
from fairseq_mtssl.data.splits import open_split
from fairseq_mtssl.errors import ConfigError


def test_every_manifest_is_a_split_and_no_table_is(tmp_path: Path) -> None:
    for name in ("valid", "train", "dev_other"):
        (tmp_path / f"{name}.tsv").write_text("audio\na.wav\t16000\n")
    (tmp_path / "text.tsv").write_text("utt\tspeaker\n")
    (tmp_path / "train.phones.tsv").write_text("caption_id\tstart_s\n")
    assert find_splits(tmp_path, None) == ["train", "dev_other", "valid"]
    assert find_splits(tmp_path, "valid, train") == ["valid", "train"]


@pytest.mark.parametrize("names", ["", " , ", "train,train"])
def test_names_that_are_none_or_twice_are_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(ConfigError, match="wanted names such as train,valid"):
        find_splits(tmp_path, names)


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no manifest"):
        find_splits(tmp_path, None)
    with pytest.raises(ConfigError, match="is no folder"):
        find_splits(tmp_path / "none", None)


def test_the_digest_follows_the_rows_not_the_place(tmp_path: Path) -> None:
    digests = []
    for folder, size in (("a", 16_000), ("b", 16_000), ("c", 16_001)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tsv").write_text(f"{folder}/audio\na.wav\t{size}\n")
        digests.append(open_split(tmp_path / folder, "train").digest)
    assert digests[0] == digests[1] != digests[2]


def test_utterances_are_called_by_caption_id_or_file(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("audio\nsub/a.wav\t16000\nb.flac\t16000\n")
    assert utterance_ids(tmp_path, "train") == ["a", "b"]
    columns = "caption_id\timage\timage_id\tlabel\tspeaker\ttext"
    rows = "c1\ti.png\ti\t\t\t\nc2\tj.png\tj\t\t\t\n"
    (tmp_path / "train.pairs").write_text(f"images\n{columns}\n{rows}")
    assert utterance_ids(tmp_path, "train") == ["c1", "c2"]
