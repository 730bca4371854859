"""BEST-RQ: the labels of its quantizer against a slow loop, its loss against cross-entropies by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_encoder
import tiny_grounding
import torch
from noise_batches import pair_sample, speech_sample
from ssl_figures import loss_of, of_sets
from tiny_encoder import NO_DROPOUT
from tiny_grounding import build_joint_criterion
from torch import Tensor

from fairseq_mtssl.criterions.mt4ssl import Mt4sslCriterion
from fairseq_mtssl.criterions.ssl_loss import SslLossConfig
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel
from fairseq_mtssl.modules.log_mel import log_mel
from fairseq_mtssl.schedule import StepWeights

FROM_WAVEFORM = {"conv_feature_layers": tiny_encoder.WAVEFORM}
FROM_FBANK = {**tiny_encoder.FROM_FBANK, "conv_feature_layers": "[(40,400,160)] + [(16,5,2,2)] * 2"}
FRONT_ENDS = pytest.mark.parametrize(
    ("feature_extractor", "stack"),
    [(FROM_WAVEFORM, 2), (FROM_FBANK, 4)],
    ids=["waveform at 50 Hz", "fbank at 25 Hz"],
)
ENCODER: dict[str, Any] = {
    **tiny_encoder.ENCODER,
    **NO_DROPOUT,
    "conv_pos": 9,
    "mask_length": 3,
    "same_mask_count": False,
    "seed": 1,
    "ssl": "best_rq",
}
OPTIONS = {"codes": 12, "code_dim": 4, "code_books": 2, "mel_bins": 20}
LENGTHS = (9_000, 7_131, 800, 8_000)  # of 27, 22, 2 and 24 frames at 50 Hz


def build(feature_extractor: dict[str, Any] = FROM_WAVEFORM, seed: int = 0, **options: Any) -> Mt4sslModel:
    torch.manual_seed(seed)
    settings = {
        **ENCODER,
        **feature_extractor,
        "encoder_layerdrop": 0.0,
        "ssl_options": {**OPTIONS, **options},
    }
    return Mt4sslModel.build_model(Mt4sslConfig(**settings), SimpleNamespace(label_classes=[])).train()


def build_joint(feature_extractor: dict[str, Any] = FROM_WAVEFORM, **changes: Any) -> JointSslVgsModel:
    return tiny_grounding.build_joint(
        **{**ENCODER, **feature_extractor, "ssl_options": OPTIONS, **changes}
    ).train()


def clip(samples: int, seed: int) -> Tensor:
    """Noise whose spectrum changes from hop to hop."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 16_000
    tones = torch.rand(-(-samples // 800), generator=generator).mul(3_000).repeat_interleave(800)[:samples]
    return torch.sin(2 * math.pi * tones * time) + 0.1 * torch.randn(samples, generator=generator)


def batch(lengths: tuple[int, ...] = LENGTHS, width: int = 0) -> dict[str, Tensor]:
    """Clips of these lengths, padded with zeros to a width."""
    source = torch.zeros(len(lengths), max(width, *lengths))
    for row, samples in enumerate(lengths):
        source[row, :samples] = clip(samples, row)
    return {"source": source, "lengths": torch.tensor(lengths), "ids": torch.arange(len(lengths))}


def sample() -> dict[str, Any]:
    return speech_sample(batch())


def labels_of(model: Mt4sslModel, given: dict[str, Tensor]) -> list[Tensor]:
    extracted = model.speech_encoder.forward_features(given["source"], given["lengths"])
    frames = extracted.features.size(1)
    return model.ssl_head.labels_of(given["source"], given["lengths"], extracted.lengths, frames)


def slow_labels(model: Mt4sslModel, book: int, waveform: Tensor, frames: int, stack: int) -> list[int]:
    """The labels of one clip, frame by frame: the nearest codebook entry by distance of unit vectors."""
    energies = log_mel(waveform[None], OPTIONS["mel_bins"])[0].double()
    energies = (energies - energies.mean(0)) / (energies.var(0, correction=0) + 1e-3).sqrt()
    projection = model.ssl_head.projections[book].double()
    codes = model.ssl_head.code_books[book].double()
    found = []
    for frame in range(frames):
        stacked = torch.zeros(stack, OPTIONS["mel_bins"], dtype=torch.float64)
        part = energies[frame * stack : (frame + 1) * stack]
        stacked[: len(part)] = part
        vector = projection.T @ stacked.flatten()
        vector = vector / vector.norm().clamp(min=1e-12)
        distances = [float((vector - code / code.norm()).norm()) for code in codes]
        found.append(4 + min(range(len(codes)), key=distances.__getitem__))
    return found


# -- labels


@FRONT_ENDS
def test_labels_are_the_nearest_entries_of_a_slow_loop_and_none_past_the_end(
    feature_extractor: dict[str, Any], stack: int
) -> None:
    model, given = build(feature_extractor), batch()
    assert model.ssl_head.stack == stack
    found = labels_of(model, given)
    frames = model.speech_encoder.frame_lengths(given["lengths"]).tolist()
    assert len(found) == OPTIONS["code_books"]
    for book, labels in enumerate(found):
        assert labels.shape == (len(LENGTHS), max(frames))
        for row, count in enumerate(frames):
            wanted = slow_labels(model, book, clip(LENGTHS[row], row), count, stack)
            assert labels[row, :count].tolist() == wanted
            assert set(labels[row, count:].tolist()) <= {1}
        assert len(labels.unique()) > 5  # including the label of padding
        assert labels[labels != 1].min() >= 4 and labels.max() < 4 + OPTIONS["codes"]
    assert not torch.equal(*found)


@FRONT_ENDS
def test_labels_are_independent_of_padding_and_other_clips(
    feature_extractor: dict[str, Any], stack: int
) -> None:
    model = build(feature_extractor)
    found = labels_of(model, batch())
    wide = labels_of(model, batch(width=12_345))
    for labels, wider in zip(found, wide, strict=True):
        more = wider.size(1) - labels.size(1)
        assert more > 0
        assert torch.equal(torch.nn.functional.pad(labels, (0, more), value=1), wider)
    for row, samples in enumerate(LENGTHS):
        one = clip(samples, row)[None]
        alone = labels_of(model, {"source": one, "lengths": torch.tensor([samples])})
        for labels, own in zip(found, alone, strict=True):
            assert torch.equal(labels[row, : own.size(1)], own[0])


@FRONT_ENDS
def test_silence_and_a_clip_of_one_frame_have_labels_and_train(
    feature_extractor: dict[str, Any], stack: int
) -> None:
    """One frame is normalised to 0, which is equally near to all entries; silence leaves rounding errors."""
    model, given = build(feature_extractor), batch((9_000, 400))
    given["source"][0] = 0.0
    alone = {"source": given["source"][1:, :400], "lengths": given["lengths"][1:]}
    for labels, own in zip(labels_of(model, given), labels_of(model, alone), strict=True):
        assert labels[0].min() >= 4 and labels[1, 0] == own[0, 0] >= 4
        assert set(labels[1, 1:].tolist()) == {1}
    loss = loss_of(model(**given), "classification")
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_labels_are_independent_of_loudness() -> None:
    """A gain adds a constant to every log-mel energy, which the normalisation removes."""
    model, given = build(), batch()
    louder = {**given, "source": 8 * given["source"]}
    for labels, again in zip(labels_of(model, given), labels_of(model, louder), strict=True):
        # this does not hold for energies at their floor, but noise has none
        assert torch.equal(labels, again)


def test_one_quantizer_seed_gives_one_quantizer_and_another_another() -> None:
    given = batch()
    first, again, other = build(seed=0), build(seed=1), build(seed=0, quantizer_seed=1)
    assert not torch.equal(first.ssl_head.label_heads[0].weight, again.ssl_head.label_heads[0].weight)
    for name in ("projections", "code_books"):
        found = [getattr(model.ssl_head, name) for model in (first, again, other)]
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    labels = [labels_of(model, given) for model in (first, again, other)]
    assert all(torch.equal(*pair) for pair in zip(labels[0], labels[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(labels[0], labels[2], strict=True))


def test_the_quantizer_is_saved_and_never_trained() -> None:
    model = build()
    names = {"ssl_head.projections", "ssl_head.code_books"}
    assert names <= set(model.state_dict()) and names.isdisjoint(dict(model.named_parameters()))
    before = {name: model.state_dict()[name].clone() for name in names}
    torch.testing.assert_close(before["ssl_head.code_books"].norm(dim=-1), torch.ones(2, 12))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    loss_of(model(**batch()), "classification").backward()
    assert not any(model.state_dict(keep_vars=True)[name].requires_grad for name in names)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    optimizer.step()
    model.step_branch(1)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in names)
    # a checkpoint contains its quantizer, so the seed of the model that loads it does not matter
    other = build(quantizer_seed=5)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(other.state_dict()[name], before[name]) for name in names)


# -- loss


@FRONT_ENDS
def test_the_loss_is_the_cross_entropy_of_the_masked_frames_of_all_code_books(
    feature_extractor: dict[str, Any], stack: int
) -> None:
    model, given = build(feature_extractor).eval(), batch()
    encoder = model.speech_encoder
    result = model(**given)
    extracted = encoder.forward_features(given["source"], given["lengths"])
    mask = model.draw_mask(extracted, given["ids"])
    states = encoder.frames(encoder.forward_layers(encoder.embed(extracted, mask), 0, encoder.num_layers))
    expected, counts = 0.0, torch.zeros(2, OPTIONS["codes"])
    for book, (head, labels) in enumerate(zip(model.ssl_head.label_heads, labels_of(model, given))):
        nats, right = 0.0, 0
        for row, frame in mask.nonzero().tolist():
            scores, label = head(states[row, frame]).detach().double(), int(labels[row, frame])
            nats += float(scores.exp().sum().log() - scores[label])
            right += int(scores.argmax() == label)
            counts[book, label - 4] += 1
        loss, accuracy = of_sets(result, "loss_off")[book], of_sets(result, "acc_off")[book]
        assert float(loss.total) == pytest.approx(nats, rel=1e-5)
        assert (int(accuracy.total), int(accuracy.count)) == (100 * right, int(mask.sum()))
        expected += nats
    assert result.frames == int(mask.sum()) > 0
    assert loss_of(result, "classification").item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(torch.stack(result.label_counts), counts)


def test_unmasked_frames_are_classified_if_the_weight_asks_for_it() -> None:
    """With criterion.unmasked_weight=1, as in mt4ssl_small."""
    model, given = build().eval(), batch()
    encoder = model.speech_encoder
    extracted = encoder.forward_features(given["source"], given["lengths"])
    mask = model.draw_mask(extracted, given["ids"])
    states = encoder.frames(encoder.forward_layers(encoder.embed(extracted, mask), 0, encoder.num_layers))
    wanted = torch.zeros(())
    for head, labels in zip(model.ssl_head.label_heads, labels_of(model, given)):
        others = ~mask & (labels != 1)
        assert others.any(1).all()
        wanted = wanted + torch.nn.functional.cross_entropy(head(states[others]), labels[others])
    found, plain = model(**given, unmasked=True), model(**given)
    torch.testing.assert_close(loss_of(found, "classification_unmasked"), wanted)
    torch.testing.assert_close(loss_of(found, "classification"), loss_of(plain, "classification"))
    assert "classification_unmasked" not in plain.losses
    loss, frames, _ = Mt4sslCriterion(SslLossConfig(unmasked_weight=0.5), None)(model, sample())
    torch.testing.assert_close(loss, loss_of(plain, "classification") + 0.5 * frames * wanted)


def test_every_masked_copy_has_the_labels_of_its_batch() -> None:
    model, given = build(), batch()
    extracted = model.speech_encoder.forward_features(given["source"], given["lengths"])
    masks = [model.draw_mask(extracted, given["ids"], view) for view in range(3)]
    together = model(**given, mask=torch.cat(masks))
    alone = [model(**given, mask=mask) for mask in masks]
    assert together.frames == sum(result.frames for result in alone)
    found = loss_of(together, "classification")
    torch.testing.assert_close(found, sum(loss_of(result, "classification") for result in alone))


# -- in both models


@FRONT_ENDS
def test_thirty_updates_on_fixed_clips_lower_the_loss(feature_extractor: dict[str, Any], stack: int) -> None:
    model = build(feature_extractor)
    criterion = Mt4sslCriterion(SslLossConfig(), None).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, eps=1e-6)
    curve = []
    for update in range(1, 31):
        model.set_num_updates(1)  # the same masks
        optimizer.zero_grad()
        loss, frames, log = criterion(model, sample())
        mean = loss / frames
        mean.backward()
        optimizer.step()
        model.step_branch(update)
        curve.append(float(log["loss_off_0"] / log["loss_off_0_count"]))
        torch.testing.assert_close(mean.detach(), (log["loss_off_0"] + log["loss_off_1"]) / frames)
    assert curve[0] > 0.8 * math.log(OPTIONS["codes"])
    assert curve[-1] < 0.7 * curve[0]


def test_the_log_has_the_baselines_of_a_label_branch() -> None:
    log = Mt4sslCriterion(SslLossConfig(), None)(build(code_books=1), sample())[2]
    mean = {name: float(log[name] / log[f"{name}_count"]) for name in log if f"{name}_count" in log}
    assert mean["chance_off"] == pytest.approx(100 / OPTIONS["codes"])
    assert mean["loss_off_chance"] == pytest.approx(math.log(OPTIONS["codes"]), rel=1e-5)
    assert mean["chance_off"] < mean["frequent_off"] <= 100
    assert {"loss_off", "acc_off", "loss_off_entropy"} <= set(mean)


@FRONT_ENDS
@pytest.mark.parametrize("vgs_masked", [True, False])
def test_the_joint_model_trains_it_beside_grounding(
    feature_extractor: dict[str, Any], stack: int, vgs_masked: bool
) -> None:
    model, criterion = build_joint(feature_extractor, vgs_masked=vgs_masked), build_joint_criterion()
    given = pair_sample(batch((9_000, 7_131, 8_000)))
    given["step"] = StepWeights(0, "x", 0, 0.5, 0.5, 1.0)
    model.set_num_updates(500)  # the update at which the criterion checks for collapse
    loss, _, log = criterion(model, given)
    torch.testing.assert_close(loss.detach(), 0.5 * log["loss_vgs"] + 0.5 * log["loss_ssl"])
    books = [log[f"loss_off_{book}"] / log[f"loss_off_{book}_count"] for book in (0, 1)]
    torch.testing.assert_close(log["loss_ssl"], sum(books))
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    # alone, on the same masks, it has the same labels: images do not change the mean over frames
    given["net_input"] = {name: given["net_input"][name] for name in ("source", "lengths")}
    given["step"] = StepWeights(0, "x", 0, 0.0, 1.0, 1.0)
    alone, _, _ = criterion(model, given)
    torch.testing.assert_close(alone.detach(), log["loss_ssl"])


# -- configuration


@pytest.mark.parametrize("make", [build, lambda **options: build_joint(ssl_options=options)])
def test_all_invalid_options_are_reported_at_once(make: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make(codes=1, code_dim=0, code_books=0, mel_bins=-1)
    for error in (
        "ssl_options.codes 1: wanted 2 or more",
        "ssl_options.code_dim 0: wanted 1 or more",
        "ssl_options.code_books 0: wanted 1 or more",
        "ssl_options.mel_bins -1: wanted 1 or more",
    ):
        assert error in caught.value.errors
    with pytest.raises(ConfigError, match="model.ssl_options: codebooks: no such option; this branch"):
        make(codebooks=2)


def test_labels_from_outside_are_refused() -> None:
    config = Mt4sslConfig(**{**ENCODER, **FROM_WAVEFORM})
    with pytest.raises(ConfigError, match="ssl=best_rq takes no task.labels, and has 1 label sets"):
        Mt4sslModel.build_model(config, SimpleNamespace(label_classes=[12]))
