"""The package from Python: `fairseq_mtssl.load_model` gives what the commands give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fairseq_mtssl
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.data.audio import read_audio, write_wav
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features.stored import FeatureShards


@pytest.fixture
def grounded(joint_run: Path) -> Path:
    """A checkpoint of the joint model."""
    return joint_run / "checkpoint_last.pt"


def recordings(data: Path, kind: str) -> list[Path]:
    return sorted(path for path in data.rglob("*") if path.suffix == kind)


def test_frames_of_a_layer_are_those_that_dump_features_stores(corpus, grounded, tmp_path) -> None:
    words = ["dump-features", "--data", str(corpus), "--split", "valid", "--features", f"{grounded}:2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    stored = FeatureShards(tmp_path, "valid")
    model = fairseq_mtssl.load_model(grounded)
    lines = (corpus / "valid.tsv").read_text().splitlines()
    for row, line in enumerate(lines[1:]):
        path = corpus / lines[0] / line.split("\t")[0]
        frames = model.extract_features(path, layer=2)
        np.testing.assert_array_equal(frames.numpy(), stored[row])
        from_array = model.extract_features(torch.from_numpy(read_audio(path)), layer=2)
        assert torch.equal(frames, from_array)
    assert model.num_layers >= 2 and model.frame_rate_hz() == 50.0
    assert torch.equal(model.extract_features(path), model.extract_features(path, layer=model.num_layers))


def test_embeddings_rank_as_the_command_retrieve_does(corpus, grounded, tmp_path) -> None:
    images, speech = recordings(corpus, ".png"), recordings(corpus, ".wav")[0]
    words = ["retrieve", "--checkpoint", str(grounded), "--images", str(corpus), "--query", str(speech)]
    assert main([*words, "--top", str(len(images)), "--json", str(tmp_path / "answer.json")]) == 0
    model = fairseq_mtssl.load_model(grounded)
    scores = (model.embed_speech([speech]) @ model.embed_images(images).T)[0]
    found = {
        Path(each["path"]): each["score"]
        for each in json.loads((tmp_path / "answer.json").read_text())["results"]
    }
    # batches of another size round otherwise
    np.testing.assert_allclose(scores.numpy(), [found[path] for path in images], rtol=1e-4, atol=1e-5)
    pixels = [Image.open(images[0]), np.asarray(Image.open(images[0]).convert("RGB"))]
    from_pixels = model.embed_images(pixels)
    assert torch.equal(from_pixels[0], from_pixels[1])
    torch.testing.assert_close(from_pixels, model.embed_images([images[0], images[0]]))
    from_array = model.embed_speech([read_audio(speech)])
    assert torch.equal(from_array, model.embed_speech([speech]))


def test_a_recording_of_another_rate_is_resampled(corpus, grounded, tmp_path) -> None:
    wav = read_audio(recordings(corpus, ".wav")[0])
    write_wav(tmp_path / "fast.wav", np.repeat(wav, 2), 32_000)
    frames = fairseq_mtssl.load_model(grounded).extract_features(tmp_path / "fast.wav")
    assert abs(len(frames) - len(wav) // 320) <= 1


def test_what_a_model_cannot_do_is_said(grounded, mt4ssl_run) -> None:
    model = fairseq_mtssl.load_model(grounded)
    with pytest.raises(ConfigError, match=r"shape \(2, 400\), wanted \(samples,\)"):
        model.extract_features(np.zeros((2, 400)))
    with pytest.raises(ConfigError, match="layer 99 of a model of"):
        model.extract_features(np.zeros(4000), layer=99)
    alone = fairseq_mtssl.load_model(mt4ssl_run / "checkpoint_last.pt")
    with pytest.raises(ConfigError, match="has no embeddings of captions"):
        alone.embed_speech([np.zeros(4000)])
