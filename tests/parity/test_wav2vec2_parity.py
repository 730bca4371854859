"""The same weights in fairseq's own wav2vec2 model and in ours give the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from noise_batches import noise
from tiny_encoder import encoder_sizes

from fairseq_mtssl.checkpoints import initialise, read_start, rename_wav2vec2
from fairseq_mtssl.errors import CheckpointError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2, Wav2vec2Options

SIZES = {
    "conv_feature_layers": "[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2",
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "encoder_layers": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "encoder_layerdrop": 0.0,
    "final_dim": 32,
    "latent_vars": 20,
}


def fairseq_model(mode: str = "default") -> Wav2Vec2Model:
    torch.manual_seed(0)
    return Wav2Vec2Model(
        Wav2Vec2Config(
            **SIZES,
            extractor_mode=mode,
            quantize_targets=True,
            num_negatives=10,
            latent_temp=(2.0, 0.5, 0.999995),
        )
    )


def our_parts(theirs: Wav2Vec2Model, mode: str = "default") -> tuple[SpeechEncoder, Wav2vec2]:
    encoder = SpeechEncoder(encoder_sizes(SIZES, mode))
    options = Wav2vec2Options(
        final_dim=32,
        latent_vars=20,
        latent_groups=2,
        latent_temp=(2.0, 0.5, 0.999995),
        num_negatives=10,
        logit_temp=0.1,
        dropout_features=0.0,
    )
    head = Wav2vec2(options, encoder)
    weights = rename_wav2vec2(theirs.state_dict())
    for part, prefix in ((encoder, "speech_encoder."), (head, "ssl_head.")):
        part.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return encoder, head


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    clips = noise(lengths)
    padded = torch.arange(max(lengths))[None] >= clips["lengths"][:, None]
    return clips["source"], clips["lengths"], padded


@pytest.mark.parametrize("mode", ["default", "layer_norm"])
@pytest.mark.parametrize("lengths", [[9000, 9000, 9000], [9000, 6111, 4000]])
def test_every_layer_output_equals_fairseq_wav2vec2(mode: str, lengths: list[int]) -> None:
    theirs = fairseq_model(mode).eval()
    encoder, _ = our_parts(theirs, mode)
    encoder.eval()
    source, sizes, padded = batch(lengths)
    with torch.no_grad():
        result = theirs(source, padding_mask=padded, mask=False, features_only=True)
        extracted = encoder.forward_features(source, sizes)
        layers: list[torch.Tensor] = []
        encoder.forward_layers(encoder.embed(extracted), 0, 4, collect=layers)
    assert len(layers) == 4
    for ours, (theirs_layer, _, _) in zip(layers, result["layer_results"], strict=True):
        for row, frames in enumerate(extracted.lengths.tolist()):
            # float32 rounding through four layers; a wrong frame or a wrong norm is off by 0.1 and more
            torch.testing.assert_close(
                ours[row, :frames], theirs_layer.transpose(0, 1)[row, :frames], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("training", [False, True])
def test_contrastive_loss_equals_fairseq_wav2vec2(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = fairseq_model().train(training)
    encoder, head = our_parts(theirs)
    encoder.train(training), head.train(training)
    source, sizes, _ = batch([9000, 9000, 9000])
    frames = int(encoder.frame_lengths(sizes)[0])
    rng = np.random.default_rng(0)
    mask = np.zeros((3, frames), dtype=bool)
    for row in mask:
        row[rng.choice(frames, 12, replace=False)] = True
    masked = torch.from_numpy(mask)

    drawn: dict[str, torch.Tensor] = {}
    sample = Wav2Vec2Model.sample_negatives

    def recording(self: Wav2Vec2Model, y: torch.Tensor, num: int, padding_count: object = None) -> object:
        negatives, indices = sample(self, y, num, padding_count)
        drawn["indices"] = indices  # (B, M · N): M frames of N negatives each
        return negatives, indices

    monkeypatch.setattr(Wav2Vec2Model, "sample_negatives", recording)
    torch.manual_seed(5)
    result = theirs(source, mask=True, mask_indices=masked)
    logits = theirs.get_logits(result).float()
    expected = torch.nn.functional.cross_entropy(logits, theirs.get_targets(None, result), reduction="mean")

    chosen = drawn["indices"].view(3, 12, 10).reshape(36, 10)
    monkeypatch.setattr(Wav2vec2, "_draw_negatives", lambda *_: chosen)
    extracted = encoder.forward_features(source, sizes)
    torch.manual_seed(5)
    top = encoder.forward_layers(encoder.embed(extracted, masked), 0, 4)
    output = head.contrast(encoder.frames(top), extracted.features, masked)
    # In training both draw the same Gumbel noise; sums run in another order, hence not bit-equal.
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(extracted.penalty, result["features_pen"])
    torch.testing.assert_close(output.perplexity, result["prob_perplexity"])
    assert output.frames == 36


def test_gradients_of_the_contrastive_loss_reach_every_shared_weight() -> None:
    encoder, head = our_parts(fairseq_model())
    source, sizes, _ = batch([9000, 6111])
    extracted = encoder.forward_features(source, sizes)
    mask = torch.zeros(extracted.features.shape[:2], dtype=torch.bool)
    mask[0, 3:9] = mask[1, 2:5] = True
    top = encoder.forward_layers(encoder.embed(extracted, mask), 0, 4)
    head.contrast(encoder.frames(top), extracted.features, mask).loss.backward()
    silent = [n for n, p in [*encoder.named_parameters(), *head.named_parameters()] if p.grad is None]
    assert silent == []


def joint_model(**changes: object) -> JointSslVgsModel:
    config = JointSslVgsConfig(
        **{
            **SIZES,
            "shared_layers": 2,
            "speech_channels": [16, 24, 32, 48],
            "speech_in_channels": 16,
            "image_encoder": "cnn",
            "image_size": 16,
            "image_layers": 1,
            "image_channels": [8, 8, 8],
            "seed": 1,
            **changes,
        }
    )
    return JointSslVgsModel.build_model(config)


def save(path: Path, model: torch.nn.Module) -> Path:
    torch.save({"model": model.state_dict(), "cfg": None, "args": None}, path)
    return path


def test_a_wav2vec2_checkpoint_of_fairseq_starts_the_speech_encoder(tmp_path: Path) -> None:
    theirs = fairseq_model()
    ours = joint_model()
    initialise(ours, read_start(save(tmp_path / "wav2vec.pt", theirs)))
    for name, weight in rename_wav2vec2(theirs.state_dict()).items():
        torch.testing.assert_close(ours.state_dict()[name], weight)


def test_a_checkpoint_of_another_size_is_refused_with_every_misfit_named(tmp_path: Path) -> None:
    ours = joint_model(encoder_ffn_embed_dim=64)
    with pytest.raises(CheckpointError, match=r"(?s)fc1.weight is \(96, 48\), wanted \(64, 48\).*fc2.weight"):
        initialise(ours, read_start(save(tmp_path / "wav2vec.pt", fairseq_model())))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="not readable"):
        initialise(joint_model(), read_start(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="no such file"):
        initialise(joint_model(), read_start(tmp_path / "absent.pt"))
