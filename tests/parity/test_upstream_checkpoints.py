"""Checkpoints as fairseq's trainer writes them, loaded with none of the paths they were trained with."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from fairseq import tasks
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from tiny_encoder import FAIRSEQ_ENCODER
from training import compose

from fairseq_mtssl.checkpoints import load_upstream, read_encoder, trained_on_normalised
from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.features.frozen import FrozenFeatures
from fairseq_mtssl.features.layers import ModelLayers
from fairseq_mtssl.features.opening import open_features
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder


def build(name: str, **more: Any) -> tuple[Any, Any, Any]:
    """A model of fairseq's, its configuration, and a function for its own features of a layer."""
    torch.manual_seed(0)
    if name == "wav2vec2":
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

        cfg = Wav2Vec2Config(**FAIRSEQ_ENCODER, **more, quantize_targets=True, latent_vars=8, final_dim=8)
        model = Wav2Vec2Model(cfg)
        return model, cfg, lambda wav, n: model.extract_features(wav, None, layer=n - 1)["x"]
    if name == "hubert":
        from fairseq.models.hubert import HubertConfig, HubertModel

        words = Dictionary()
        words.add_symbol("0")
        cfg = HubertConfig(**FAIRSEQ_ENCODER, **more, label_rate=50, untie_final_proj=True, final_dim=8)
        model = HubertModel(cfg, SimpleNamespace(sample_rate=16_000), [words, words])
        return model, cfg, lambda wav, n: model.extract_features(wav, output_layer=n)[0]
    module = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    cfg = module.Data2VecAudioConfig(**FAIRSEQ_ENCODER, **more, pos_conv_depth=2, max_update=10)
    model = module.Data2VecAudioModel(cfg)
    model.make_ema_teacher()
    return model, cfg, lambda wav, n: model.extract_features(wav, None, layer=n - 1)["x"]


def save(path: Path, name: str, model: Any, model_cfg: Any, normalize: bool) -> Path:
    """What fairseq's trainer keeps, as far as a reader looks at it."""
    cfg = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), resolve=False, enum_to_str=True)
    task = "hubert_pretraining" if name == "hubert" else "audio_pretraining"
    plain = OmegaConf.to_container(OmegaConf.structured(model_cfg), resolve=False, enum_to_str=True)
    cfg["model"] = {key: value for key, value in plain.items() if not str(value).startswith("${")}
    cfg["model"]["_name"] = name
    cfg["task"] = {"_name": task, "data": "/nowhere", "normalize": normalize, "sample_rate": 16_000}
    cfg["task"] |= {"label_dir": "/nowhere", "labels": ["km"], "label_rate": 50.0} if name == "hubert" else {}
    state = {"args": None, "cfg": cfg, "model": model.state_dict(), "task_state": {}}
    state["extra_state"] = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    history = {"criterion_name": "C", "optimizer_name": "A", "lr_scheduler_state": {}, "num_updates": 7}
    state["optimizer_history"] = [history]
    torch.save(state, path)
    return path


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio"])
def test_a_checkpoint_of_fairseqs_gives_its_own_layers(name: str, normalize: bool, tmp_path: Path) -> None:
    model, cfg, theirs = build(name)
    upstream = load_upstream(save(tmp_path / "c.pt", name, model, cfg, normalize))
    assert (upstream.name, upstream.normalised, upstream.model.training) == (name, normalize, False)
    wav = np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    found = ModelLayers(upstream.model, 2).extract([wav])[0][:, 0]
    with torch.no_grad():
        model.eval()
        wanted = theirs(torch.from_numpy(wav).unsqueeze(0), 2)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)  # convolutions add up in another order


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio"])
def test_our_encoder_with_the_weights_of_fairseqs_gives_its_frames(
    name: str, mode: str, tmp_path: Path
) -> None:
    model, cfg, theirs = build(name, extractor_mode=mode)
    source = read_encoder(save(tmp_path / "c.pt", name, model, cfg, True))
    ours = SpeechEncoder(EncoderSizes.of_plain(source.sizes)).eval()
    ours.load_state_dict(source.weights)
    wav = torch.randn(1, 6000)
    with torch.no_grad():
        extracted = ours.forward_features(wav, torch.tensor([6000]))
        found = ours.frames(ours.forward_layers(ours.embed(extracted), 0, 3))
        model.eval()
        torch.testing.assert_close(found, theirs(wav, 3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec_audio"])
def test_a_probe_freezes_the_layers_of_fairseqs_as_they_are(name: str, mode: str, tmp_path: Path) -> None:
    model, cfg, _ = build(name, extractor_mode=mode)
    path = save(tmp_path / "c.pt", name, model, cfg, normalize=False)
    source = read_encoder(path)
    frozen = FrozenFeatures(source.sizes, "weighted")
    assert frozen.speech_encoder is not None and not source.normalised
    frozen.speech_encoder.load_state_dict(source.weights)
    upstream = ModelLayers(load_upstream(path).model, None)
    rng = np.random.default_rng(0)
    wavs = [rng.standard_normal(size).astype(np.float32) for size in (6000, 4321)]
    for found, wanted in zip(frozen.extract(wavs), upstream.extract(wavs), strict=True):
        assert found.shape == wanted.shape == (len(wanted), 3, 24)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_configuration_pickled_as_an_object_is_read(tmp_path: Path) -> None:
    """As published checkpoints have it: torch's safe unpickling, fairseq's default since 2.6, refuses it."""
    model, cfg, _ = build("wav2vec2")
    path = save(tmp_path / "c.pt", "wav2vec2", model, cfg, True)
    state = torch.load(path, weights_only=False)
    state["cfg"] = OmegaConf.create(state["cfg"])
    torch.save(state, path)
    assert read_encoder(path).sizes["dim"] == 24


def test_an_encoder_with_layer_norms_first_is_refused(tmp_path: Path) -> None:
    model, cfg, _ = build("wav2vec2", layer_norm_first=True)
    with pytest.raises(CheckpointError, match="layer_norm_first=True"):
        read_encoder(save(tmp_path / "c.pt", "wav2vec2", model, cfg, True))


def test_a_checkpoint_that_lacks_a_layer_is_refused_by_name(tmp_path: Path) -> None:
    model, cfg, _ = build("wav2vec2")
    path = save(tmp_path / "c.pt", "wav2vec2", model, cfg, True)
    state = torch.load(path, weights_only=False)
    del state["model"]["encoder.layers.1.fc1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="encoder.layers.1.fc1.weight is missing"):
        load_upstream(path)


def test_a_checkpoint_from_elsewhere_is_refused(tmp_path: Path) -> None:
    model, cfg, _ = build("wav2vec2")
    with pytest.raises(CheckpointError, match="holds the model 'wav2vec_ctc'"):
        load_upstream(save(tmp_path / "ctc.pt", "wav2vec_ctc", model, cfg, True))
    torch.save({"weights": torch.zeros(2)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="c.pt"):
        load_upstream(tmp_path / "c.pt")
    (tmp_path / "d.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="d.pt: not readable"):
        load_upstream(tmp_path / "d.pt")


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """A data folder of one recording with a peak of 0.01, spelled `A |`."""
    folder = tmp_path / "quiet"
    folder.mkdir()
    wav = np.random.default_rng(3).uniform(-0.01, 0.01, 6000).astype(np.float32)
    soundfile.write(folder / "a.wav", wav, 16_000, subtype="FLOAT", format="WAV")
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text(f"{folder}\na.wav\t6000\n")
        (folder / f"{split}.ltr").write_text("A |\n")
    (folder / "dict.ltr.txt").write_text("| 1\nA 1\n")
    return folder


def raw_layer(model: Any, theirs: Any, quiet: Path, layer: int) -> torch.Tensor:
    """What fairseq's own model makes of the samples as they stand in the file."""
    wav, _ = soundfile.read(quiet / "a.wav", dtype="float32")
    with torch.no_grad():
        model.eval()
        return theirs(torch.from_numpy(wav).unsqueeze(0), layer)


def frames_of(encoder: SpeechEncoder, clip: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        extracted = encoder.eval().forward_features(clip.unsqueeze(0), torch.tensor([clip.numel()]))
        return encoder.frames(encoder.forward_layers(encoder.embed(extracted), 0, encoder.num_layers))


def test_a_fine_tuning_of_a_model_of_raw_waveforms_hears_raw_waveforms(quiet: Path, tmp_path: Path) -> None:
    model, cfg, theirs = build("wav2vec2")
    path = save(tmp_path / "c.pt", "wav2vec2", model, cfg, normalize=False)
    settings = {"task.data": str(quiet), "model.pretrained": str(path)}
    ours = compose("ctc_small", **settings)
    task = tasks.setup_task(ours.task)
    tuned = task.build_model(ours.model)
    wanted = raw_layer(model, theirs, quiet, 3)
    for split in ("train", "valid"):
        clip = task.load_dataset(split)[0]["clip"]
        torch.testing.assert_close(frames_of(tuned.speech_encoder, clip), wanted, atol=1e-5, rtol=1e-4)
    # the configuration that is saved says so to whatever reads the fine-tuned model: transcribe, probes, ABX
    assert ours.model.normalize is False and trained_on_normalised(ours) is False
    with pytest.raises(ConfigError, match="c.pt was trained on raw waveforms"):
        wrong = compose("ctc_small", **settings, **{"model.normalize": True})
        tasks.setup_task(wrong.task).build_model(wrong.model)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_pre_training_that_starts_from_a_checkpoint_goes_on_with_its_waveforms(
    normalize: bool, quiet: Path, tmp_path: Path
) -> None:
    model, model_cfg, _ = build("wav2vec2")
    path = save(tmp_path / "c.pt", "wav2vec2", model, model_cfg, normalize)
    sizes = {f"model.{name}": value for name, value in FAIRSEQ_ENCODER.items()}
    settings = {
        **sizes,
        "model.extractor_mode": "default",
        "model.padding_exact": False,
        "model.pos_conv_depth": 1,
        "task.labels": [],
    }
    settings |= {"model.average_top_k_layers": 2, "task.min_duration_s": 0.1, "task.data": str(quiet)}
    cfg = compose("mt4ssl_small", **settings, **{"model.init_from": str(path)})
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    peak = float(task.load_dataset("valid")[0]["clip"].abs().max())
    # uniform noise up to 0.01 has a variance of 0.01² / 3, to which normalising adds 1e-5
    assert peak == pytest.approx(0.01 / (0.01**2 / 3 + 1e-5) ** 0.5 if normalize else 0.01, rel=0.05)
    assert trained_on_normalised(cfg) is normalize
    # without the checkpoint, as to evaluate, what was saved counts
    again = tasks.setup_task(cfg.task)
    again.build_model(cfg.model, from_checkpoint=True)
    assert again.normalised is normalize


def test_dumped_features_of_a_quiet_recording_are_those_of_the_raw_samples(
    quiet: Path, tmp_path: Path
) -> None:
    model, cfg, theirs = build("wav2vec2")
    path = save(tmp_path / "c.pt", "wav2vec2", model, cfg, normalize=False)
    wav, _ = soundfile.read(quiet / "a.wav", dtype="float32")
    (found,) = open_features(f"{path}:2", torch.device("cpu")).extract([wav])
    np.testing.assert_allclose(found[:, 0], raw_layer(model, theirs, quiet, 2)[0].numpy(), atol=1e-5)


def test_who_says_nothing_was_trained_on_what_its_package_does() -> None:
    for name, task, wanted in (
        ("mt4ssl", {}, True),  # ours, of before it was said
        ("wav2vec2", {}, False),
        ("wav2vec2", {"normalize": True}, True),
    ):
        assert trained_on_normalised(OmegaConf.create({"model": {"_name": name}, "task": task})) is wanted
    saved = {"model": {"_name": "speech_ctc", "normalize": False}, "task": {}}
    assert trained_on_normalised(OmegaConf.create(saved)) is False
