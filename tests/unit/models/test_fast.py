"""`model.fast` changes the time, not the numbers; `model.precision` changes them a little."""

from __future__ import annotations

import pytest
import torch
from ssl_figures import total
from tiny_mt4ssl import ENCODER, LENGTHS, batch, build, losses_and_gradients
from torch import Tensor

from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_mt4ssl_has_the_same_loss_and_gradients_fast_and_plain(
    lengths: list[int], training: bool, exact: bool
) -> None:
    mode = "layer_norm" if exact else "default"
    fast, plain = (build(fast=on, padding_exact=exact, extractor_mode=mode) for on in (True, False))
    plain.load_state_dict(fast.state_dict())
    inputs = batch(lengths)
    loss, gradients = losses_and_gradients(fast.train(training), inputs)
    expected, expected_gradients = losses_and_gradients(plain.train(training), inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    whole = torch.cat([g.flatten() for g in expected_gradients.values()]).norm()
    for name, gradient in gradients.items():
        # of the gradient of all weights: some weights have none but rounding, such as the keys' biases
        assert float((gradient - expected_gradients[name]).norm()) < 1e-5 * float(whole), name


def test_vgs_embeddings_are_the_same_fast_and_plain() -> None:
    models = []
    for on in (True, False):
        torch.manual_seed(0)
        config = JointSslVgsConfig(
            preset="modern",
            fast=on,
            image_encoder="cnn",
            image_size=16,
            image_layers=1,
            image_channels=[8, 8, 8],
            image_grid=2,
            shared_layers=2,
            speech_in_channels=8,
            speech_channels=[8, 32],
            speech_strides=[2, 2],
            **{name: value for name, value in ENCODER.items() if name != "average_top_k_layers"},
        )
        models.append(JointSslVgsModel.build_model(config).eval())
    inputs = batch(LENGTHS[1])
    with torch.no_grad():
        fast, plain = (model.encode_speech(inputs["source"], inputs["lengths"]) for model in models)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_fast_and_plain_models_have_the_same_names_in_their_checkpoints() -> None:
    assert build(fast=True).state_dict().keys() == build(fast=False).state_dict().keys()


def test_with_padding_exact_a_clip_has_the_same_states_whatever_its_batch() -> None:
    model = build(fast=True).eval()
    inputs = batch(LENGTHS[1])
    encoder = model.speech_encoder

    def states(source: Tensor, lengths: Tensor) -> Tensor:
        hidden = encoder.forward_layers(encoder.embed(encoder.forward_features(source, lengths)), 0, 3)
        return encoder.frames(hidden)

    with torch.no_grad():
        together = states(inputs["source"], inputs["lengths"])[1]
        alone = states(inputs["source"][1:, :6_400], inputs["lengths"][1:])[0]
    torch.testing.assert_close(together[: len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_anew_and_repeats_with_the_seed() -> None:
    model = build(dropout=0.1, attention_dropout=0.1).train()
    inputs = batch(LENGTHS[1])
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(losses_and_gradients(model, inputs))
    assert torch.equal(found[0][0], found[1][0]) and found[0][0] != found[2][0]
    for name, gradient in found[0][1].items():
        assert torch.equal(gradient, found[1][1][name]), name


# -- precision


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_stays_near_and_losses_and_weights_stay_in_32_bits(fast: bool) -> None:
    narrow, wide = build(precision="bfloat16", fast=fast), build(fast=fast)
    inputs = batch(LENGTHS[1])
    loss, gradients = losses_and_gradients(narrow.train(), inputs)
    expected, expected_gradients = losses_and_gradients(wide.train(), inputs)
    assert loss.dtype == torch.float32 and float(loss) != float(expected)
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    assert {p.dtype for p in narrow.parameters()} == {torch.float32} == {g.dtype for g in gradients.values()}
    found, wanted = (
        torch.cat([g.flatten() for g in each.values()]) for each in (gradients, expected_gradients)
    )
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_evaluation_is_in_32_bits_whatever_the_precision() -> None:
    narrow, wide = build(precision="bfloat16").eval(), build().eval()
    inputs = batch(LENGTHS[1])
    with torch.no_grad():
        assert torch.equal(total(narrow(**inputs)), total(wide(**inputs)))


def test_a_model_trains_in_bfloat16_as_in_32_bits() -> None:
    curves = []
    for precision in ("bfloat16", "float32"):
        model = build(precision=precision).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6)
        inputs, curve = batch(LENGTHS[1]), []
        for update in range(1, 31):
            model.set_num_updates(1)  # the same masks
            optimizer.zero_grad()
            loss = total(out := model(**inputs)) / out.frames
            loss.backward()
            optimizer.step()
            model.step_branch(update)
            curve.append(float(loss.detach()))
        curves.append(curve)
    half, full = curves
    assert full[-1] < 0.7 * full[0]
    # 8 bits of mantissa in the products; within a per cent all the way down
    assert half == pytest.approx(full, rel=0.01)


def test_a_halved_model_is_left_to_its_own_precision() -> None:
    model = build(precision="bfloat16").to(torch.bfloat16).train()
    inputs = batch(LENGTHS[1])
    inputs["source"] = inputs["source"].to(torch.bfloat16)
    out = model(**inputs)
    wide = build().train()(**batch(LENGTHS[1]))
    torch.testing.assert_close(total(out).float(), total(wide), rtol=0.02, atol=0)
