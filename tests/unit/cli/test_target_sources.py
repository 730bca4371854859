"""Splits of a data folder and features by name, as the subcommands of offline targets take them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairseq_mtssl.cli import target_options, target_sources
from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.labels import kmeans
from fairseq_mtssl.modules import precision


def test_every_manifest_is_a_split_and_no_table_is(tmp_path: Path) -> None:
    for name in ("valid", "train", "dev_other"):
        (tmp_path / f"{name}.tsv").write_text("audio\na.wav\t16000\n")
    (tmp_path / "text.tsv").write_text("utt\tspeaker\n")
    (tmp_path / "train.phones.tsv").write_text("caption_id\tstart_s\n")
    assert target_sources.find_splits(tmp_path, None) == ["train", "dev_other", "valid"]
    assert target_sources.find_splits(tmp_path, "valid, train") == ["valid", "train"]


@pytest.mark.parametrize("names", ["", " , ", "train,train"])
def test_names_that_are_none_or_twice_are_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(ConfigError, match="wanted names such as train,valid"):
        target_sources.find_splits(tmp_path, names)


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no manifest"):
        target_sources.find_splits(tmp_path, None)
    with pytest.raises(ConfigError, match="is no folder"):
        target_sources.find_splits(tmp_path / "none", None)


def test_the_digest_follows_the_rows_not_the_place(tmp_path: Path) -> None:
    digests = []
    for folder, size in (("a", 16_000), ("b", 16_000), ("c", 16_001)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tsv").write_text(f"{folder}/audio\na.wav\t{size}\n")
        digests.append(target_sources.open_split(tmp_path / folder, "train").digest)
    assert digests[0] == digests[1] != digests[2]


def test_utterances_are_called_by_caption_id_or_file(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("audio\nsub/a.wav\t16000\nb.flac\t16000\n")
    assert target_sources.utterance_ids(tmp_path, "train") == ["a", "b"]
    columns = "caption_id\timage\timage_id\tlabel\tspeaker\ttext"
    rows = "c1\ti.png\ti\t\t\t\nc2\tj.png\tj\t\t\t\n"
    (tmp_path / "train.pairs").write_text(f"images\n{columns}\n{rows}")
    assert target_sources.utterance_ids(tmp_path, "train") == ["c1", "c2"]


def test_mfccs_have_no_precision_to_choose() -> None:
    assert target_options.PRECISIONS == precision.PRECISIONS
    with pytest.raises(ConfigError, match="--precision.*mfcc-cmn is always in float32"):
        target_sources.open_features("mfcc-cmn", torch.device("cpu"), "bfloat16")
    assert target_sources.open_features("mfcc", torch.device("cpu"), "auto").source == {"features": "mfcc"}


@pytest.mark.parametrize("name", ["mfcc", "mfcc-cmn", "log-mel"])
def test_only_a_checkpoint_has_weights_to_leave_out(name) -> None:
    assert target_sources.open_features(name, torch.device("cpu")).source == {"features": name}
    with pytest.raises(ConfigError, match=f"--random-weights.*{name} has no weights"):
        target_sources.open_features(name, torch.device("cpu"), random_seed=1)


def test_batches_are_for_gpus_unless_asked_for() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert target_sources.batch_samples(None, cpu) is None
    assert target_sources.batch_samples(None, cuda) == 400 * 16_000
    assert target_sources.batch_samples(2.0, cpu) == 32_000
    assert target_sources.batch_samples(0.0, cuda) is None


def test_stored_features_of_another_kind_are_not_mixed(tmp_path: Path) -> None:
    target_sources.note_features(tmp_path, {"features": "mfcc"})
    target_sources.note_features(tmp_path, {"features": "mfcc"})
    with pytest.raises(TargetError, match="now asked for"):
        target_sources.note_features(tmp_path, {"features": "layer"})


def test_the_backends_offered_are_those_there_are() -> None:
    assert target_options.BACKENDS == kmeans.BACKENDS
