"""Models over filterbanks: what a clip gives does not depend on its batch; combinations that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_grounding
import tiny_mt4ssl
import torch
from noise_batches import numbered_noise
from ssl_figures import loss_of, total
from tiny_encoder import FROM_FBANK, NO_DROPOUT, WAVEFORM

from fairseq_mtssl.errors import ClipTooShortError, ConfigError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel
from fairseq_mtssl.models.mt4ssl import Mt4sslModel
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder


def build(classes: list[int] | None = None, **changes: Any) -> Mt4sslModel:
    return tiny_mt4ssl.build(classes, **{**FROM_FBANK, "dropout_input": 0.1, **changes})


def build_joint(**changes: Any) -> JointSslVgsModel:
    return tiny_grounding.build_joint(**{**FROM_FBANK, "mask_length": 3, **NO_DROPOUT, **changes})


def batch(*lengths: int) -> dict[str, Any]:
    return numbered_noise(lengths)


def test_padding_changes_neither_states_nor_targets_nor_losses() -> None:
    model = build().eval()
    inputs, encoder = batch(19_000, 12_000), model.speech_encoder
    short = {"source": inputs["source"][1:, :12_000], "lengths": inputs["lengths"][1:]}
    frames = int(encoder.frame_lengths(short["lengths"])[0])
    assert frames == (12_000 - 400) // 640 + 1
    with torch.no_grad():
        both = [encoder.forward_features(x["source"], x["lengths"]) for x in (inputs, short)]
        tops = [encoder.frames(encoder.forward_layers(encoder.embed(extracted), 0, 3)) for extracted in both]
        targets = [model.ssl_head.online_targets(encoder, extracted) for extracted in both]
    for padded, alone in (tops, targets):
        torch.testing.assert_close(padded[1, :frames], alone[0], atol=1e-5, rtol=1e-4)
    mask = model.draw_mask(both[0], inputs["ids"])
    labels = torch.randint(4, 12, mask.shape)
    wide = {**inputs, "source": torch.nn.functional.pad(inputs["source"], (0, 3_200))}
    tight = model(**inputs, labels=[labels], mask=mask)
    found = model(**wide, labels=[labels], mask=torch.nn.functional.pad(mask, (0, 5)))
    assert tight.frames == found.frames > 0
    for name in ("regression", "classification"):
        torch.testing.assert_close(loss_of(found, name), loss_of(tight, name), atol=0, rtol=1e-4)


def test_gradients_reach_every_weight_of_the_student() -> None:
    model = build().train()
    inputs = batch(19_000, 12_000)
    frames = int(model.speech_encoder.frame_lengths(inputs["lengths"]).max())
    out = model(**inputs, labels=[torch.randint(4, 12, (2, frames))])
    total(out).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_bfloat16_stays_near() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        model = build([], precision=precision).train()
        losses.append(loss_of(model(**batch(19_000, 12_000)), "regression").detach())
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)


def test_the_joint_model_embeds_a_caption_alike_in_any_batch() -> None:
    model = build_joint(preset="modern").eval()
    inputs = batch(19_000, 12_000)
    with torch.no_grad():
        together = model.encode_speech(inputs["source"], inputs["lengths"])[1]
        alone = model.encode_speech(inputs["source"][1:, :12_000], inputs["lengths"][1:])[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_an_encoder_is_rebuilt_from_its_sizes_and_from_those_of_before() -> None:
    encoder = build().speech_encoder
    again = SpeechEncoder(EncoderSizes.of_plain(encoder.sizes.plain()))
    again.load_state_dict(encoder.state_dict())
    assert again.conv_layers == encoder.conv_layers
    earlier = {**encoder.sizes.plain(), "front_end": "fbank"}
    del earlier["feature_extractor"]
    assert EncoderSizes.of_plain(earlier) == encoder.sizes
    waveform = build(feature_extractor="waveform", conv_feature_layers=WAVEFORM).speech_encoder
    sizes = {name: value for name, value in waveform.sizes.plain().items() if name != "feature_extractor"}
    SpeechEncoder(EncoderSizes.of_plain(sizes)).load_state_dict(waveform.state_dict())


def test_a_clip_below_one_window_is_refused() -> None:
    encoder: SpeechEncoder = build().speech_encoder
    with pytest.raises(ClipTooShortError, match="a clip of 399 samples gives no frame; .* at least 400"):
        encoder.forward_features(torch.zeros(1, 399), torch.tensor([399]))


@pytest.mark.parametrize("make", [build, build_joint])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"conv_feature_layers": WAVEFORM}, r"with feature_extractor=fbank: wanted \(mel bins, 400, 160\)"),
        (
            {"feature_extractor": "waveform"},
            r"with feature_extractor=waveform: wanted \(channels, kernel, stride\), without",
        ),
    ],
)
def test_layers_of_another_feature_extractor_are_refused_with_all_other_errors(
    make: Any, changes: dict[str, str], error: str
) -> None:
    with pytest.raises(ConfigError, match=error) as error:
        make(**changes, encoder_attention_heads=5)
    assert "no multiple of the 5" in str(error.value)


def test_the_group_norm_that_filterbanks_lack_is_no_fault() -> None:
    build(extractor_mode="default")
    build_joint(preset="paper", padding_exact=True)
    with pytest.raises(ConfigError, match="its group norm sees the padding"):
        build(extractor_mode="default", feature_extractor="waveform", conv_feature_layers=WAVEFORM)
