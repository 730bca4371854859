"""model.clone_batch: several masks of a batch for one pass of the convolutions and of the teacher."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_encoder
import tiny_grounding
import tiny_mt4ssl
import torch
from fixed_negatives import next_frames
from noise_batches import numbered_noise, pair_sample, speech_sample
from ssl_figures import loss_of, mean_of, of_sets, total
from tiny_encoder import NO_DROPOUT
from tiny_grounding import build_joint_criterion
from torch import Tensor, nn

from fairseq_mtssl.criterions.mt4ssl import Mt4sslCriterion
from fairseq_mtssl.criterions.ssl_loss import SslLossConfig
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.schedule import StepWeights
from fairseq_mtssl.ssl.base import SslBatch
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2

ENCODER: dict[str, Any] = {
    **tiny_encoder.ENCODER,
    **NO_DROPOUT,
    "conv_pos": 9,
    "average_top_k_layers": 2,
    "mask_length": 3,
    "seed": 1,
}
LENGTHS = (9_000, 7_000, 8_000)
FRAMES = 27
VIEWS = 3


def build(views: int = VIEWS, **changes: Any) -> Mt4sslModel:
    classes = [] if changes.get("ssl") == "wav2vec2" else [12]
    model = tiny_mt4ssl.build(classes, **{**ENCODER, "clone_batch": views, **changes})
    model.set_num_updates(5)
    return model.train()


def build_joint(views: int = VIEWS, **changes: Any) -> JointSslVgsModel:
    settings = {**ENCODER, "clone_batch": views, "ssl": "mt4ssl", **changes}
    classes = [] if settings["ssl"] in ("data2vec", "wav2vec2") else [12]
    return tiny_grounding.build_joint(classes=classes, **settings).train()


def batch() -> dict[str, Any]:
    inputs = numbered_noise(LENGTHS)
    labels = torch.randint(4, 12, (len(LENGTHS), FRAMES))
    labels[0, 3] = 1
    return {**inputs, "labels": [labels]}


def sample() -> dict[str, Any]:
    return speech_sample(batch(), batch()["labels"])


def joint_sample() -> dict[str, Any]:
    return pair_sample(batch(), batch()["labels"])


def ssl_batch(model: Any, mask: Tensor, labels: list[Tensor] | None = None) -> SslBatch:
    return SslBatch(batch()["source"], batch()["lengths"], extracted_of(model), mask, labels)


def extracted_of(model: Any) -> ExtractedFeatures:
    return model.speech_encoder.forward_features(batch()["source"], batch()["lengths"])


def masks(model: Mt4sslModel) -> list[Tensor]:
    return [model.draw_mask(extracted_of(model), batch()["ids"], view) for view in range(VIEWS)]


def joint_masks(model: JointSslVgsModel) -> list[Tensor]:
    masking, lengths = Masking(prob=0.65, length=3, seed=1, same_count=False), extracted_of(model).lengths
    return [masking.draw(lengths, FRAMES, batch()["ids"], 0, view) for view in range(VIEWS)]


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same gradients within rounding."""
    assert found.keys() == wanted.keys()
    whole = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
    for name, gradient in found.items():
        # of the gradient of all weights: some weights have none but rounding, such as the keys' biases
        assert float((gradient - wanted[name]).norm()) < 1e-5 * float(whole), name


def test_several_views_give_the_summed_losses_and_gradients_of_one_pass_a_mask() -> None:
    model = build()
    together = model(**batch(), unmasked=True)
    alone = [model(**batch(), mask=mask, unmasked=True) for mask in masks(model)]
    assert together.frames == sum(out.frames for out in alone)
    for name in ("classification", "regression"):
        torch.testing.assert_close(loss_of(together, name), sum(loss_of(out, name) for out in alone))
    right, *each = (of_sets(out, "acc_off")[0] for out in (together, *alone))
    assert int(right.total) == sum(int(measure.total) for measure in each)
    assert int(right.count) == sum(int(measure.count) for measure in each)
    found, wanted = gradients(model, total(together)), gradients(model, sum(total(out) for out in alone))
    assert any("feature_extractor" in name for name in found)
    assert_close(found, wanted)


def test_the_loss_at_unmasked_frames_is_a_mean_over_those_of_all_views() -> None:
    model, labels = build(), batch()["labels"][0]
    drawn = masks(model)
    name = "classification_unmasked"
    alone = [loss_of(model(**batch(), mask=mask, unmasked=True), name) for mask in drawn]
    counts = [int((~mask & (labels != 1)).sum()) for mask in drawn]
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(loss_of(model(**batch(), unmasked=True), name), mean)


def test_variances_are_those_of_the_masked_frames_of_all_views() -> None:
    model = build()
    out, drawn, extracted = model(**batch()), masks(model), extracted_of(model)
    encoder, head = model.speech_encoder, model.ssl_head
    states = [encoder.forward_layers(encoder.embed(extracted, mask), 0, 3) for mask in drawn]
    predicted = [
        head.regression(encoder.frames(state)[mask]) for state, mask in zip(states, drawn, strict=True)
    ]
    shared = {"feature_var": extracted.features, "target_var": head.online_targets(encoder, extracted)}
    chosen = {name: [values[mask] for mask in drawn] for name, values in shared.items()}
    for name, frames in {**chosen, "prediction_var": predicted}.items():
        torch.testing.assert_close(mean_of(out, name), torch.cat(frames).var(0).mean(), msg=name)


def test_the_sample_size_counts_all_views_so_that_a_masked_frame_weighs_the_same() -> None:
    model, criterion = build(), Mt4sslCriterion(SslLossConfig(), None)
    loss, size, log = criterion(model, sample())
    assert size == log["sample_size"] == sum(int(mask.sum()) for mask in masks(model))
    alone = [total(model(**batch(), mask=mask)) for mask in masks(model)]
    torch.testing.assert_close(loss / size, sum(alone) / size)
    assert log["nsentences"] == len(LENGTHS)


def test_feature_extractor_teacher_and_student_each_run_once_the_student_on_all_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, int]] = []
    forward_features, embed = SpeechEncoder.forward_features, SpeechEncoder.embed

    def counted_features(self: SpeechEncoder, source: Tensor, lengths: Tensor) -> Any:
        calls.append(("feature extractor", len(source)))
        return forward_features(self, source, lengths)

    def counted_embed(self: SpeechEncoder, extracted: Any, mask: Tensor) -> Any:
        calls.append(("student", len(extracted.features)))
        return embed(self, extracted, mask)

    model = build()
    monkeypatch.setattr(SpeechEncoder, "forward_features", counted_features)
    monkeypatch.setattr(SpeechEncoder, "embed", counted_embed)
    model.ssl_head.teacher.register_forward_pre_hook(
        lambda _, given: calls.append(("teacher", given[0].states.size(1)))
    )
    model(**batch())
    assert sorted(calls) == [("feature extractor", 3), ("student", 3 * VIEWS), ("teacher", 3)]


def test_views_are_masked_differently_and_the_same_again_after_a_resume() -> None:
    drawn, resumed = masks(build()), masks(build())
    for view, mask in enumerate(drawn):
        assert torch.equal(mask, resumed[view])
        for other in drawn[:view]:
            assert not any(torch.equal(*rows) for rows in zip(mask, other, strict=True))
    later = build()
    later.set_num_updates(6)
    assert not any(torch.equal(*pair) for pair in zip(drawn, masks(later), strict=True))


def test_one_view_is_the_first_mask_to_the_bit() -> None:
    model = build(1)
    out, wanted = model(**batch()), model(**batch(), mask=masks(build())[0])
    found, expected = gradients(model, total(out)), gradients(model, total(wanted))
    assert torch.equal(total(out), total(wanted)) and out.frames == wanted.frames
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert Mt4sslConfig().clone_batch == JointSslVgsConfig().clone_batch == 1


def test_evaluation_and_features_have_one_view_whatever_is_trained_with() -> None:
    several, one = build(mask_channel_prob=0.0).eval(), build(1, mask_channel_prob=0.0).eval()
    found, wanted = (model(**batch()) for model in (several, one))
    assert found.frames == wanted.frames and torch.equal(total(found), total(wanted))
    assert torch.equal(mean_of(found, "acc_on"), mean_of(wanted, "acc_on"))
    states = [
        model.train().extract_features(batch()["source"], None, mask=True)["x"] for model in (several, one)
    ]
    assert torch.equal(*states)


@pytest.mark.parametrize("ssl", ["mt4ssl", "hubert", "data2vec"])
@pytest.mark.parametrize("vgs_masked", [True, False])
def test_the_joint_model_grounds_the_first_view_and_supervises_itself_on_all(
    ssl: str, vgs_masked: bool
) -> None:
    several, one = (build_joint(views, ssl=ssl, vgs_masked=vgs_masked) for views in (VIEWS, 1))
    given = joint_sample()
    inputs = {**given["net_input"], "ids": given["id"], "labels": given["labels"]}
    inputs["labels"] = None if ssl == "data2vec" else inputs["labels"]
    found, wanted = several(**inputs), one(**inputs)
    # float32 products of other shapes
    torch.testing.assert_close(found["speech"], wanted["speech"], atol=1e-5, rtol=1e-4)
    drawn = [int(mask.sum()) for mask in joint_masks(several)]
    assert (found["ssl"][0].frames, wanted["ssl"][0].frames) == (sum(drawn), drawn[0])
    for model in (several, one):
        model.eval()
    assert several(**inputs)["ssl"][0].frames == one(**inputs)["ssl"][0].frames


def test_the_joint_loss_is_a_mean_over_the_masked_frames_of_all_views() -> None:
    model, criterion, given = build_joint(), build_joint_criterion(), joint_sample()
    alone = [
        model.ssl_head(model.speech_encoder, ssl_batch(model, mask, given["labels"]))
        for mask in joint_masks(model)
    ]
    step = StepWeights(0, "w2v2", 0, 0.0, 1.0, 1.0)
    loss, _, _ = criterion(model, {**given, "step": step})
    mean = sum(total(out) for out in alone) / sum(out.frames for out in alone)
    torch.testing.assert_close(loss, mean)
    assert_close(gradients(model, loss), gradients(model, mean))


def test_a_number_of_views_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="clone_batch 0: wanted 1 or more"):
        build(0)
    with pytest.raises(ConfigError, match="clone_batch -1: wanted 1 or more"):
        build_joint(-1)


@pytest.mark.parametrize("build_model", [build_joint, build])
def test_the_contrastive_loss_is_a_mean_over_the_masked_frames_of_all_views(
    build_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand from one pass a mask; the code book's perplexity alone is of all views at once."""

    monkeypatch.setattr(Wav2vec2, "_draw_negatives", next_frames)
    options = {"ssl": "wav2vec2", "latent_vars": 8, "num_negatives": 5, "dropout_features": 0.0}
    model = build_model(**options)
    model.ssl_head.quantizer.eval()  # no noise in the choice of codes
    drawn = masks(model) if isinstance(model, Mt4sslModel) else joint_masks(model)
    alone = [model.ssl_head(model.speech_encoder, ssl_batch(model, mask)) for mask in drawn]
    inputs = {name: given for name, given in batch().items() if name != "labels"}
    if isinstance(model, Mt4sslModel):
        found = model(**inputs)
    else:
        (found,) = model(**inputs, vgs=False)["ssl"]
    frames = sum(int(mask.sum()) for mask in drawn)
    assert found.frames == frames == sum(out.frames for out in alone)
    mean = sum(loss_of(out, "contrastive") * out.frames for out in alone) / frames
    torch.testing.assert_close(loss_of(found, "contrastive"), mean)
    right = sum(out.measures["ssl_accuracy"].total for out in alone) / frames
    torch.testing.assert_close(mean_of(found, "ssl_accuracy"), right)
    together, each = gradients(model, loss_of(found, "contrastive")), gradients(model, mean)
    assert any("feature_extractor" in name for name in together)
    assert_close(together, each)
