"""Layers against fairseq's extract_features, alone and in batches."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoder import FAIRSEQ_ENCODER, FBANK, WAVEFORM_LAYERS, encoder_sizes

from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.features import base as features
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.frames import conv_length, frame_count
from fairseq_mtssl.modules.encoder_options import Regularisation
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder

LENGTHS = (6000, 2345, 400, 9001, 4001, 399, 2000)


def waves() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in LENGTHS]


def fairseq_model(name: str, mode: str) -> tuple[Any, Any]:
    """A tiny model and its own layer-N features of one clip."""
    torch.manual_seed(0)
    if name == "wav2vec2":
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

        model = Wav2Vec2Model(Wav2Vec2Config(**FAIRSEQ_ENCODER, extractor_mode=mode))
        return model, lambda wav, n: model.extract_features(wav, None, layer=n - 1)["x"]
    if name == "hubert":
        from types import SimpleNamespace

        from fairseq.models.hubert import HubertConfig, HubertModel

        cfg = HubertConfig(**FAIRSEQ_ENCODER, extractor_mode=mode, label_rate=50)
        model = HubertModel(cfg, SimpleNamespace(sample_rate=16_000), [None])
        return model, lambda wav, n: model.extract_features(wav, output_layer=n)[0]
    module = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    cfg = module.Data2VecAudioConfig(**FAIRSEQ_ENCODER, extractor_mode=mode, pos_conv_depth=3)
    model = module.Data2VecAudioModel(cfg)
    return model, lambda wav, n: model.extract_features(wav, None, layer=n - 1)["x"]


def our_model(mode: str, use_cls: bool, **changes: Any) -> Any:
    torch.manual_seed(0)
    exact = mode == "layer_norm"
    sizes = encoder_sizes(FAIRSEQ_ENCODER, mode, use_cls=use_cls, padding_exact=exact, **changes)
    regularisation = Regularisation(dropout=0.1, attention_dropout=0.1, input_dropout=0.1, layerdrop=0.5)
    encoder = SpeechEncoder(sizes, regularisation)
    model = torch.nn.Module()
    model.speech_encoder = encoder
    return model


def layers(model: Any, layer: int = 2) -> ModelLayers:
    return ModelLayers(model, layer, prepare=normalise)


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio"])
def test_fairseqs_models_give_what_their_extract_features_gives(name: str, mode: str) -> None:
    model, theirs = fairseq_model(name, mode)
    for layer in (1, 3):
        extractor = layers(model, layer)
        for wav, found in zip(waves(), (extractor.extract([each])[0][:, 0] for each in waves()), strict=True):
            if len(wav) < 400:
                continue
            with torch.no_grad():
                wanted = theirs(torch.from_numpy(normalise(wav)).unsqueeze(0), layer)[0].numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-5)  # convolutions add up in another order


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio", "ours", "ours with CLS"])
@pytest.mark.parametrize("batch_samples", [1000, 12_000, 100_000])
def test_a_batch_changes_no_feature(name: str, mode: str, batch_samples: int) -> None:
    model = our_model(mode, "CLS" in name) if name.startswith("ours") else fairseq_model(name, mode)[0]
    extractor = layers(model, 3)
    alone = list(features.stream(extractor, waves()))
    batched = list(features.stream(extractor, waves(), batch_samples))
    wanted = [conv_length(length, WAVEFORM_LAYERS) for length in LENGTHS]
    assert [len(each) for each in alone] == [len(each) for each in batched] == wanted
    for one, other in zip(alone, batched, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("use_cls", [False, True])
@pytest.mark.parametrize("batch_samples", [1000, 12_000, 100_000])
def test_a_batch_changes_no_feature_over_filterbanks(use_cls: bool, batch_samples: int) -> None:
    fbank = {"conv_layers": FBANK, "feature_extractor": "fbank"}
    extractor = layers(our_model("layer_norm", use_cls, **fbank), 3)
    assert (extractor.window_samples, extractor.hop_samples) == (400, 640)
    alone = list(features.stream(extractor, waves()))
    batched = list(features.stream(extractor, waves(), batch_samples))
    assert [len(each) for each in alone] == [frame_count(length, 640, 400) for length in LENGTHS]
    for one, other in zip(alone, batched, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_our_layers_are_those_the_encoder_collects() -> None:
    model = our_model("layer_norm", True)
    wav = waves()[0]
    found = layers(model, 2).extract([wav])[0][:, 0]
    encoder, collected = model.speech_encoder, []
    with torch.no_grad():
        extracted = encoder.forward_features(
            torch.from_numpy(normalise(wav)).unsqueeze(0), torch.tensor([len(wav)])
        )
        encoder.forward_layers(encoder.embed(extracted), 0, 3, collect=collected)
    np.testing.assert_allclose(found, collected[1][0].numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio", "ours with CLS"])
def test_a_stack_of_layers_is_each_layer_out_of_one_pass(name: str) -> None:
    model = our_model("layer_norm", True) if name.startswith("ours") else fairseq_model(name, "layer_norm")[0]
    passes: list[int] = []
    encoder = getattr(model, "speech_encoder", model)
    encoder.feature_extractor.register_forward_hook(lambda *_: passes.append(1))
    for wanted in (None, [3, 1]):
        stack = ModelLayers(model, wanted, prepare=normalise)
        before = len(passes)
        found = list(features.stream(stack, waves(), 100_000))
        assert len(passes) == before + 1
        assert stack.layers == (wanted or [1, 2, 3]) == stack.source["layers"]
        assert stack.names == [str(layer) for layer in stack.layers]
        for place, layer in enumerate(stack.layers):
            alone = features.stream(layers(model, layer), waves(), 100_000)
            for many, one in zip(found, alone, strict=True):
                np.testing.assert_array_equal(many[:, place], one[:, 0])


@pytest.mark.parametrize("name", ["ours", "wav2vec2"])
def test_bfloat16_features_are_float32_and_within_a_few_per_cent(name: str) -> None:
    model = our_model("layer_norm", True) if name == "ours" else fairseq_model(name, "layer_norm")[0]
    exact, narrow = (
        ModelLayers(model, None, prepare=normalise, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert narrow.source["precision"] == "bfloat16" and "precision" not in exact.source
    for wanted, found in zip(exact.extract(waves()), narrow.extract(waves()), strict=True):
        assert found.dtype == np.float32 and found.shape == wanted.shape
        if len(wanted):
            assert 0 < np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


def test_window_and_hop_count_the_frames_of_the_convolutions() -> None:
    extractor = layers(our_model("layer_norm", False))
    assert (extractor.window_samples, extractor.hop_samples) == (400, 320)
    for samples in range(0, 3000, 37):
        assert frame_count(samples, 320, 400) == conv_length(samples, WAVEFORM_LAYERS)


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_the_model_lacks_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"layer {layer} of a model of 3"):
        layers(our_model("layer_norm", False), layer)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Linear has no layers to take"):
        layers(torch.nn.Linear(2, 2), 1)


def test_batches_hold_neighbours_in_length_and_never_too_much() -> None:
    lengths = [5, 9, 1, 9, 4, 20, 5]
    batches = features.bucket(lengths, 18)
    assert sorted(sum(batches, [])) == list(range(7))
    assert batches == [[5], [1, 3], [0, 6, 4], [2]]
