"""The joint model's promises: padding, branches, presets, one image a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noise_batches import noise, pair_sample
from tiny_encoder import NO_DROPOUT
from tiny_grounding import build_joint, build_joint_criterion

from fairseq_mtssl.errors import ClipTooShortError, ConfigError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.schedule import StepWeights


def test_modern_embeddings_do_not_depend_on_the_amount_of_padding() -> None:
    model = build_joint().eval()
    speech = noise([8000, 5000, 3001])
    with torch.no_grad():
        together = model.encode_speech(**speech)
        wider = model.encode_speech(**noise([8000, 5000, 3001], width=12_000))
        alone = [
            model.encode_speech(speech["source"][i : i + 1, :n], torch.tensor([n]))
            for i, n in enumerate([8000, 5000, 3001])
        ]
    # float32 sums of other lengths; without the masks the third row is off by more than 0.01
    torch.testing.assert_close(wider, together, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(torch.cat(alone), together, atol=2e-6, rtol=1e-4)


def test_paper_embeddings_see_the_padding_which_is_why_modern_exists() -> None:
    model = build_joint(preset="paper").eval()
    with torch.no_grad():
        near = model.encode_speech(**noise([8000, 5000]))
        far = model.encode_speech(**noise([8000, 5000], width=12_000))
    assert (near - far).abs().max() > 1e-4


def test_modern_embeddings_are_unit_vectors_and_the_scale_is_bounded() -> None:
    model = build_joint().eval()
    with torch.no_grad():
        speech = model.encode_speech(**noise([8000, 5000]))
        image = model.encode_image(torch.randint(0, 255, (3, 3, 16, 16), dtype=torch.uint8))
        model.logit_scale.fill_(50.0)
    torch.testing.assert_close(speech.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
    assert model.scale.item() == 100.0


@pytest.mark.parametrize(("vgs", "ssl"), [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_the_loss_is_the_weighted_sum_and_a_branch_without_weight_gets_no_gradient(
    vgs: float, ssl: float
) -> None:
    model, criterion = build_joint().train(), build_joint_criterion()
    step = StepWeights(0, "x", 0, vgs, ssl, 1.0)
    loss, _, log = criterion(model, {**pair_sample(noise([8000, 6000, 7000])), "step": step})
    parts = [vgs * log["loss_vgs"] if vgs else 0, ssl * log["loss_ssl"] if ssl else 0]
    torch.testing.assert_close(loss.detach(), torch.as_tensor(sum(parts)))
    loss.backward()
    dead = model.inactive_parameters(vgs=vgs > 0, ssl=ssl > 0)
    without = {id(p) for p in model.parameters() if p.grad is None}
    assert {id(p) for p in dead} == without


def test_a_branch_that_logs_no_variance_trains_on_at_the_update_that_looks_for_collapse() -> None:
    model, criterion = build_joint().train(), build_joint_criterion()
    model.set_num_updates(criterion.ssl.collapse_check_updates)
    loss, _, _ = criterion(model, pair_sample(noise([8000, 6000])))
    assert torch.isfinite(loss) and model.num_updates == 500


def test_collapse_is_warned_of_beside_grounding_too(caplog: pytest.LogCaptureFixture) -> None:
    model, criterion = build_joint(ssl="data2vec", average_top_k_layers=2).train(), build_joint_criterion()
    with torch.no_grad():
        model.ssl_head.regression.weight.zero_()
    model.set_num_updates(499)
    criterion(model, pair_sample(noise([8000, 6000])))
    assert not caplog.records
    model.set_num_updates(500)
    criterion(model, pair_sample(noise([8000, 6000])))
    (warning,) = [record.message for record in caplog.records]
    assert warning.startswith("update 500: prediction_var is 0, below 0.0001")


def test_with_both_branches_off_only_what_they_share_is_active() -> None:
    model = build_joint()
    shared = {id(p) for p in model.parameters()} - {id(p) for p in model.inactive_parameters(False, False)}
    names = {name.split(".")[1] for name, p in model.named_parameters() if id(p) in shared}
    assert names == {"feature_extractor", "layer_norm", "cls_token", "encoder"}


def test_silence_and_clips_of_one_frame_train_without_nan() -> None:
    model, criterion = build_joint().train(), build_joint_criterion()
    whole = pair_sample(noise([8000, 400, 6000]))
    whole["net_input"]["source"][2] = 0.0
    loss, _, _ = criterion(model, whole)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_clip_shorter_than_one_frame_is_refused_with_both_numbers() -> None:
    with pytest.raises(ClipTooShortError, match="399 samples.*at least 400"):
        build_joint().encode_speech(torch.zeros(1, 399), torch.tensor([399]))


def test_every_fault_of_a_model_configuration_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_joint(extractor_mode="default", padding_exact=True, shared_layers=5, encoder_attention_heads=3)
    for part in ("padding_exact", "encoder_layers 3 are fewer", "no multiple of the 3"):
        assert part in str(caught.value)


def test_the_regularising_mask_hides_frames_in_training_only() -> None:
    model = build_joint(vgs_mask_prob=0.5, **NO_DROPOUT)
    plain = build_joint(**NO_DROPOUT)
    net_input = pair_sample(noise([8000, 6000]))["net_input"]
    ids = torch.arange(2)
    masked = model.train()(**net_input, ids=ids, ssl=False)["speech"]
    assert (masked - plain.train()(**net_input, ids=ids, ssl=False)["speech"]).abs().max() > 1e-3
    fresh, bare = build_joint(vgs_mask_prob=0.5).eval(), build_joint().eval()
    torch.testing.assert_close(
        fresh(**net_input, ids=ids, ssl=False)["speech"], bare(**net_input, ids=ids, ssl=False)["speech"]
    )
    assert all(p is not model.speech_encoder.mask_emb for p in model.inactive_parameters(True, False))


@pytest.mark.parametrize("ssl", [False, True], ids=["alpha 1", "both"])
def test_the_paper_grounds_speech_masked_as_for_ssl_whatever_the_weights(
    ssl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_joint(preset="paper").train()
    masks = []
    embed = model.speech_encoder.embed

    def spy(extracted: Any, mask: Any = None, **options: Any) -> Any:
        masks.append(mask)
        return embed(extracted, mask, **options)

    monkeypatch.setattr(model.speech_encoder, "embed", spy)
    net_input, ids = pair_sample(noise([16000, 12000, 9000]))["net_input"], torch.arange(3)
    out = model(**net_input, ids=ids, ssl=ssl)
    (mask,) = masks  # one pass
    lengths = model.speech_encoder.frame_lengths(net_input["lengths"])
    masking = Masking(prob=0.65, length=10, seed=1, min_spans=2, same_count=True)
    assert torch.equal(mask, masking.draw(lengths, mask.size(1), ids, update=0))
    assert len(set(mask.sum(1).tolist())) == 1 and mask.sum() > 0
    out["speech"].square().sum().backward()
    assert model.speech_encoder.mask_emb.grad.abs().sum() > 0
    assert all(p is not model.speech_encoder.mask_emb for p in model.inactive_parameters(True, ssl))
    masks.clear()
    model.eval()(**net_input, ids=ids, ssl=False)
    assert masks == [None]


def test_modern_grounds_unmasked_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_joint().train()
    masks = []
    embed = model.speech_encoder.embed
    monkeypatch.setattr(
        model.speech_encoder,
        "embed",
        lambda extracted, mask=None: masks.append(mask) or embed(extracted, mask),
    )
    model(**pair_sample(noise([8000, 6000]))["net_input"], ids=torch.arange(2), ssl=False)
    assert masks == [None]


def test_two_kinds_of_masks_for_the_vgs_branch_are_refused() -> None:
    with pytest.raises(ConfigError, match="vgs_mask_prob 0.3 with vgs_masked=true"):
        build_joint(preset="paper", vgs_mask_prob=0.3)


def test_modern_embeddings_start_out_apart_so_that_the_loss_is_not_flat() -> None:
    model = build_joint().train()
    images = torch.randint(0, 255, (16, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        speech = model.encode_speech(**noise([8000] * 16))
        image = model.encode_image(images)
    for rows in (speech, image):
        others = (rows @ rows.T)[~torch.eye(16, dtype=torch.bool)]
        # centred over the batch, the cosines average −1/15; without the centring they are above 0.9
        assert abs(others.mean().item() + 1 / 15) < 0.05
    alone = model.encode_speech(**noise([8000]))  # one row has no variance
    assert torch.isfinite(alone).all()


def labelled(**changes: Any) -> JointSslVgsModel:
    """With one set of eight labels behind the special symbols."""
    return build_joint(classes=[12], **{"average_top_k_layers": 2, **changes})


def test_hubert_scores_labels_by_cosines_over_a_temperature() -> None:
    (head,) = labelled(ssl="hubert").ssl_head.label_heads
    frames = torch.randn(5, 16)
    projected = torch.nn.functional.linear(frames, head.final_proj.weight, head.final_proj.bias)
    # Hsu et al. 2021, eq. 3, with its temperature of 0.1
    cosines = torch.cosine_similarity(projected[:, None], head.label_embs_concat[None], dim=-1)
    torch.testing.assert_close(head(frames), cosines / 0.1)


@pytest.mark.parametrize(("ssl", "asked"), [("mt4ssl", None), ("hubert", "linear")])
def test_mt4ssl_and_checkpoints_that_say_so_have_a_linear_head(ssl: str, asked: Any) -> None:
    """Checkpoints of before the default followed HuBERT say label_head=linear."""
    (head,) = labelled(ssl=ssl, label_head=asked).ssl_head.label_heads
    assert isinstance(head, torch.nn.Linear)


def test_an_unknown_label_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="label_head 'mlp': wanted linear or cosine"):
        labelled(ssl="hubert", label_head="mlp")


def test_the_paper_draws_every_linear_layer_as_berts() -> None:
    wide = {"encoder_embed_dim": 48, "speech_channels": [8, 48], "image_encoder": "regions", "final_dim": 32}
    wide["latent_vars"] = 64
    model = build_joint(preset="paper", **wide)
    linear = {
        name: module
        for part in (model.speech_encoder, model.speech_head, model.ssl_head)
        for name, module in part.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert {"resdavenet.input", "quantizer.weight_proj", "project_q", "final_proj"} <= set(linear)
    for name, module in linear.items():
        # 0.02 at 768 dimensions is 0.08 at 48; of some 400 weights at least, whose deviation is within 15 %
        assert module.weight.std().item() == pytest.approx(0.08, rel=0.15), name
        assert not module.bias.any(), name
    assert model.image_encoder.encoder.cls.std().item() == pytest.approx(1.0, rel=0.4)  # 48 values
    other = build_joint(**wide)
    assert other.ssl_head.quantizer.weight_proj.weight.std().item() == pytest.approx(1.0, rel=0.15)
    assert other.image_encoder.encoder.cls.std().item() == pytest.approx(0.08, rel=0.4)


def test_a_teacher_begins_as_the_student_that_the_paper_preset_draws() -> None:
    model = build_joint(preset="paper", ssl="data2vec", average_top_k_layers=2)
    teacher = model.ssl_head.teacher.state_dict()
    student = model.speech_encoder.encoder.state_dict()
    assert teacher and all(torch.equal(value, student[name]) for name, value in teacher.items())
