"""The EMA teacher: its decay, its steps, its precision."""

from __future__ import annotations

import copy

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from torch import nn

from fairseq_mtssl.modules.ema import EmaLayers, ema_decay
from fairseq_mtssl.modules.hidden import Hidden


def encoder() -> TransformerEncoder:
    torch.manual_seed(0)
    return TransformerEncoder(
        Wav2Vec2Config(
            encoder_layers=3,
            encoder_embed_dim=8,
            encoder_ffn_embed_dim=16,
            encoder_attention_heads=2,
            conv_pos_groups=4,
        )
    )


def averaged(student: TransformerEncoder) -> EmaLayers:
    return EmaLayers(student.layers, student.layer_norm)


def test_decay_is_linear_in_the_updates_done_and_then_constant() -> None:
    assert ema_decay(0, 0.999, 0.9999, 30_000) == 0.999
    assert ema_decay(15_000, 0.999, 0.9999, 30_000) == pytest.approx(0.99945)
    assert ema_decay(30_000, 0.999, 0.9999, 30_000) == 0.9999
    assert ema_decay(400_000, 0.999, 0.9999, 30_000) == 0.9999
    assert ema_decay(1, 0.999, 0.9999, 0) == 0.9999


def test_steps_equal_a_loop_over_weights() -> None:
    student = encoder()
    teacher = averaged(student)
    names = [f"layers.{name}" for name, _ in student.layers.named_parameters()]
    names += [f"layer_norm.{name}" for name, _ in student.layer_norm.named_parameters()]
    oracle = {name: student.state_dict()[name].double() for name in names}
    for update in range(1, 8):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        decay = ema_decay(update, 0.9, 0.99, 5)
        for name in names:
            oracle[name] = decay * oracle[name] + (1 - decay) * student.state_dict()[name].double()
        teacher.step(student.layers, student.layer_norm, decay)
    assert teacher.state_dict().keys() == oracle.keys()
    for name, weight in teacher.state_dict().items():
        torch.testing.assert_close(weight.double(), oracle[name], atol=1e-6, rtol=0)


def test_the_teacher_is_not_trained_and_never_leaves_evaluation_mode() -> None:
    teacher = averaged(encoder()).train()
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


def test_the_teacher_does_not_share_memory_with_the_student() -> None:
    student = encoder()
    teacher = averaged(student)
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        student.layers[0].fc1.weight.fill_(3.0)
    assert torch.equal(teacher.state_dict()["layers.0.fc1.weight"], before["layers.0.fc1.weight"])
    teacher.copy_from(student.layers, student.layer_norm)
    assert teacher.state_dict()["layers.0.fc1.weight"].unique().tolist() == [3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_halved_model_keeps_its_teacher_in_32_bits(dtype: torch.dtype) -> None:
    student = encoder()
    model = nn.ModuleDict({"student": student, "teacher": averaged(student)})
    before = model["teacher"].state_dict()["layers.0.fc1.weight"].clone()
    model.to(dtype)
    assert student.layers[0].fc1.weight.dtype == dtype
    assert {p.dtype for p in model["teacher"].parameters()} == {torch.float32}
    assert torch.equal(model["teacher"].state_dict()["layers.0.fc1.weight"], before)
    # A step of 1e-4 of the difference is below the resolution of 16 bits; 32 bits must show it.
    with torch.no_grad():
        student.layers[0].fc1.weight.add_(1.0)
    model["teacher"].step(student.layers, student.layer_norm, 0.9999)
    moved = model["teacher"].state_dict()["layers.0.fc1.weight"] - before
    assert 5e-5 < moved.mean() < 2e-4


def test_half_precision_input_gives_nearly_the_same_layer_results() -> None:
    teacher = averaged(encoder())
    states = torch.randn(7, 2, 8)  # (T, B, D)
    full = teacher(Hidden(states, None), 2)
    half = teacher(Hidden(states.to(torch.bfloat16), None), 2)
    assert len(full) == len(half) == 2
    for a, b in zip(full, half, strict=True):
        # bfloat16 keeps 8 bits: errors of a few per cent of the values
        torch.testing.assert_close(a, b.float(), atol=0.05, rtol=0.05)


def test_layer_results_are_those_before_the_residual_of_the_top_layers() -> None:
    student = encoder().eval()
    teacher = averaged(student)
    x = torch.randn(2, 7, 8)
    with torch.no_grad():
        student.pos_conv = nn.Identity()  # x + pos_conv(x) = 2 x
        _, theirs = student.extract_features(x / 2)
    ours = teacher(Hidden(x.transpose(0, 1), None), 2)
    # fairseq pads to a multiple of two, hence not bit-equal
    for mine, (_, _, result) in zip(ours, theirs[1:], strict=True):
        torch.testing.assert_close(mine, result, atol=1e-6, rtol=1e-5)
