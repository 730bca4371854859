"""The feature extractor fbank through every stage: labels, training, resuming, features, measures, CTC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spoken_phones import make_spoken_phones
from tiny_encoder import FBANK
from tiny_recipes import TINY_CTC, TINY_MT4SSL
from training import checkpoint_of, copy_as_last, different_weights, train, weights

from fairseq_mtssl.checkpoints import load_model
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.stored import FeatureShards
from fairseq_mtssl.frames import frame_count

TINY = {**TINY_MT4SSL, "model.conv_feature_layers": FBANK, "task.max_duration_s": 0.6, "model.mask_length": 2}
TWO_UPDATES = {"model.mask_length": 2, "dataset.validate_interval_updates": 1, "optimization.max_update": 2}


def command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def pretrain(data: Path, out: Path, *labels: Path, **overrides: Any) -> Path:
    settings = {**TINY, "task.labels": [str(folder) for folder in labels]}
    options = {"optimization__max_update": 2, **overrides}
    return train(data, out, "mt4ssl_fbank_small", settings, **options) / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Utterances of 10,560 samples with phones, ABX items and transcripts."""
    folder = make_spoken_phones(tmp_path_factory.mktemp("phones"), utterances=4)
    for table in folder.glob("*.tsv"):
        if ".phones" not in table.name:
            rows = len(table.read_text().splitlines()) - 1
            (folder / f"{table.stem}.ltr").write_text("A B |\n" * rows)
    (folder / "dict.ltr.txt").write_text("| 10\nA 5\nB 8\n")
    return folder


@pytest.fixture(scope="module")
def mfcc_labels(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "mfcc"
    command("make-targets", "--data", data, "--features", "mfcc", "--clusters", 6, "--out", out)
    return out


@pytest.fixture(scope="module")
def pretrained(data: Path, mfcc_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(data, tmp_path_factory.mktemp("whole"), mfcc_labels)


def test_labels_of_100_hz_train_it_and_resuming_gives_the_uninterrupted_run(
    data: Path, mfcc_labels: Path, pretrained: Path, tmp_path: Path
) -> None:
    first, straight = checkpoint_of(pretrained.parent, 1), weights(pretrained)
    pretrain(data, copy_as_last(first, tmp_path), mfcc_labels)
    assert different_weights(tmp_path, pretrained.parent) == []
    name = "speech_encoder.feature_extractor.convs.0.weight"
    # 80 bins; 16 channels and their gates
    assert straight[name].shape == (32, 80, 5)
    assert not torch.equal(straight[name], weights(first)[name])


def test_its_features_are_stored_at_25_hz_and_their_labels_train_the_next_beside_those_of_100_hz(
    data: Path, mfcc_labels: Path, pretrained: Path, tmp_path: Path
) -> None:
    features = f"{pretrained}:2"
    command("dump-features", "--data", data, "--features", features, "--split", "valid", "--out", tmp_path)
    sizes = read_audio_manifest(data / "valid.tsv").sizes
    stored = FeatureShards(tmp_path, "valid")
    assert [len(stored[row]) for row in range(4)] == [frame_count(int(size), 640, 400) for size in sizes]
    again = tmp_path / "labels"
    command("make-targets", "--data", data, "--features", features, "--clusters", 4, "--out", again)
    assert json.loads((again / "targets.json").read_text())["rate_hz"] == 25
    pretrain(data, tmp_path / "next", again, mfcc_labels)


def test_layers_of_a_filterbank_model_are_compared_and_probed(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    of = ["--checkpoint", pretrained, "--data", data]
    command("evaluate-abx", *of, "--item", data / "valid.item", "--context", "any", "--json", tmp_path / "a")
    measured = json.loads((tmp_path / "a").read_text())
    assert measured["rate_hz"] == 25 and list(measured["scores"]) == ["1", "2", "3"]
    command("probe-layers", *of, "--updates", 2, "--json", tmp_path / "p")
    assert list(json.loads((tmp_path / "p").read_text())["scores"]) == ["1", "2", "3"]


def test_a_filterbank_model_is_fine_tuned_with_ctc_and_transcribes(
    data: Path, pretrained: Path, tmp_path: Path
) -> None:
    settings = {**TINY_CTC, **TWO_UPDATES, "model.pretrained": str(pretrained)}
    tuned = train(data, tmp_path, "ctc_small", settings, optimization__lr=[1e-12]) / "checkpoint_last.pt"
    loaded = load_model(tuned).model
    before = weights(pretrained)
    for name, weight in loaded.state_dict().items():
        if name.startswith("speech_encoder."):
            torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        out = loaded(torch.randn(2, 6_400), torch.arange(6_400) >= torch.tensor([[6_400], [3_200]]))
    # (6400 − 400) // 640 + 1 frames, and (3200 − 400) // 640 + 1
    assert out["encoder_out"].shape[:2] == (10, 2)
    assert (~out["padding_mask"]).sum(1).tolist() == [10, 5]
    command("transcribe", "--checkpoint", tuned, "--data", data, "--split", "test", "--json", tmp_path / "t")
    assert json.loads((tmp_path / "t").read_text())["utterances"] == 4


@pytest.mark.parametrize("ssl", ["wav2vec2", "mt4ssl"])
def test_filterbanks_carry_the_joint_model_with_labels_of_50_hz(
    corpus: Path, labels: Path, tmp_path: Path, ssl: str
) -> None:
    out = train(
        corpus,
        tmp_path,
        model__feature_extractor="fbank",
        model__conv_feature_layers=FBANK,
        model__mask_length=2,
        model__ssl=ssl,
        task__labels=[str(labels)] if ssl == "mt4ssl" else [],
        task__speed_perturb=0.0,
        task__lengths=["1 updates", "rest"],
        optimization__max_update=2,
    )
    model = load_model(out / "checkpoint_last.pt").model
    with torch.no_grad():
        embedded = model.encode_speech(torch.randn(1, 6_400), torch.tensor([6_400]))
    assert embedded.shape == (1, 16) and np.isfinite(embedded.numpy()).all()


def test_a_feature_extractor_without_its_layers_is_refused_before_training(
    data: Path, mfcc_labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"wanted \(mel bins, 400, 160\), then"):
        pretrain(data, tmp_path, mfcc_labels, model__conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4")
