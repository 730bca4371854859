"""The same weights and masks in fairseq's data2vec_audio and hubert and in ours give the same numbers."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fairseq
import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.hubert import hubert as fairseq_hubert
from ssl_figures import loss_of

from fairseq_mtssl.checkpoints import initialise, read_start
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel

CLASSES = 11
SIZES: dict[str, Any] = {
    "conv_feature_layers": "[(32,10,5)] + [(32,3,2)] * 4 + [(32,2,2)] * 2",
    "extractor_mode": "layer_norm",
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "encoder_layers": 4,
    "conv_pos_groups": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
}
STACKED = {"pos_conv_depth": 5, "conv_pos": 25}
SINGLE = {"pos_conv_depth": 1, "conv_pos": 16}


@lru_cache(maxsize=1)
def data2vec_module() -> Any:
    """The file of fairseq's model, from the examples that its package carries."""
    path = Path(fairseq.__file__).parent / "examples" / "data2vec" / "models" / "data2vec_audio.py"
    if not path.is_file():
        pytest.skip("this fairseq was installed without its examples")
    spec = importlib.util.spec_from_file_location("fairseq_data2vec_audio", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def data2vec(**changes: Any) -> Any:
    """fairseq's own model, with its teacher."""
    module = data2vec_module()
    torch.manual_seed(0)
    settings = {
        "average_top_k_layers": 3,
        "instance_norm_target_layer": True,
        "required_seq_len_multiple": 1,
        "ema_decay": 0.9,
        "ema_end_decay": 0.99,
        "ema_anneal_end_step": 10,
        "max_update": 10,
    }
    model = module.Data2VecAudioModel(
        module.Data2VecAudioConfig(**SIZES, **{**STACKED, **settings, **changes})
    )
    model.train().set_num_updates(0)  # makes its teacher
    return model


def ours(path: Path, theirs: Any, classes: list[int], **changes: Any) -> Mt4sslModel:
    """Our model started from fairseq's checkpoint."""
    torch.manual_seed(7)
    config = Mt4sslConfig(
        **SIZES,
        **{
            **STACKED,
            "average_top_k_layers": 3,
            "ema_decay": 0.9,
            "ema_end_decay": 0.99,
            "ema_anneal_updates": 10,
            "padding_exact": False,
            "seed": 1,
            **changes,
        },
    )
    model = Mt4sslModel.build_model(config, SimpleNamespace(label_classes=classes))
    torch.save({"model": theirs.state_dict()}, path / "theirs.pt")
    initialise(model, read_start(path / "theirs.pt"))
    return model


def batch(rows: int = 3, samples: int = 9_000, masked: int = 12) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    source = torch.randn(rows, samples)
    rng = np.random.default_rng(0)
    mask = np.zeros((rows, (samples - 400) // 320 + 1), dtype=bool)
    for row in mask:
        row[rng.choice(len(row), masked, replace=False)] = True
    return source, torch.full((rows,), samples), torch.from_numpy(mask)


@pytest.mark.parametrize("training", [True, False])
def test_the_regression_loss_equals_fairseq_data2vec_audio(tmp_path: Path, training: bool) -> None:
    theirs = data2vec()
    model = ours(tmp_path, theirs, [])
    source, lengths, mask = batch()
    theirs.train(training), model.train(training)
    expected = theirs(source, mask=True, mask_indices=mask)
    out = model(source, lengths, mask=mask)
    assert out.frames == expected["sample_size"] == 36
    # float32 sums of another order
    torch.testing.assert_close(
        loss_of(out, "regression"), expected["losses"]["regression"], rtol=1e-5, atol=1e-5
    )


def test_its_gradient_equals_fairseq_data2vec_audio(tmp_path: Path) -> None:
    theirs = data2vec()
    model = ours(tmp_path, theirs, [])
    source, lengths, mask = batch()
    theirs(source, mask=True, mask_indices=mask)["losses"]["regression"].backward()
    loss_of(model(source, lengths, mask=mask), "regression").backward()
    pairs = [
        ("encoder.pos_conv.2.0.weight", model.speech_encoder.encoder.pos_conv[2][0].weight),
        ("encoder.layers.1.fc2.weight", model.speech_encoder.encoder.layers[1].fc2.weight),
        (
            "feature_extractor.conv_layers.0.0.weight",
            model.speech_encoder.feature_extractor.conv_layers[0][0].weight,
        ),
        ("mask_emb", model.speech_encoder.mask_emb),
    ]
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in pairs:
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-4)


def test_the_teacher_and_the_loss_after_steps_equal_fairseq_data2vec_audio(tmp_path: Path) -> None:
    """Its teacher, stepped as it should be: once an update."""
    theirs = data2vec()
    model = ours(tmp_path, theirs, [])
    pairs = list(zip(theirs.encoder.parameters(), model.speech_encoder.encoder.parameters(), strict=True))
    for update in range(1, 5):
        with torch.no_grad():
            for a, b in pairs:
                change = 0.05 * torch.randn_like(a)
                a.add_(change), b.add_(change)
        theirs.set_num_updates(update)
        model.step_branch(update)
    source, lengths, mask = batch()
    expected = theirs(source, mask=True, mask_indices=mask)["losses"]["regression"]
    found = loss_of(model(source, lengths, mask=mask), "regression")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, weight in model.ssl_head.teacher.state_dict().items():
        torch.testing.assert_close(weight, theirs.ema.fp32_params[name], rtol=0, atol=1e-6)


def test_a_data2vec_checkpoint_brings_its_teacher(tmp_path: Path) -> None:
    theirs = data2vec()
    with torch.no_grad():
        theirs.ema.fp32_params["layers.0.fc1.weight"].add_(1.0)
    model = ours(tmp_path, theirs, [])
    torch.testing.assert_close(
        model.ssl_head.teacher.state_dict()["layers.0.fc1.weight"],
        theirs.ema.fp32_params["layers.0.fc1.weight"],
    )


def dictionary() -> Dictionary:
    found = Dictionary()
    for label in range(CLASSES - 4):
        found.add_symbol(str(label))
    return found


def hubert(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = fairseq_hubert.HubertConfig(
        **SIZES,
        **{
            "conv_pos": SINGLE["conv_pos"],
            "label_rate": 50.0,
            "final_dim": 16,
            "logit_temp": 0.1,
            "required_seq_len_multiple": 1,
            **changes,
        },
    )
    return fairseq_hubert.HubertModel(config, SimpleNamespace(sample_rate=16_000), [dictionary()])


@pytest.mark.parametrize("training", [True, False])
def test_cosine_logits_and_loss_equal_fairseq_hubert(
    tmp_path: Path, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = hubert()
    model = ours(
        tmp_path, theirs, [CLASSES], online=False, label_head="cosine", final_dim=16, logit_temp=0.1, **SINGLE
    )
    source, lengths, mask = batch()
    labels = torch.randint(4, CLASSES, mask.shape)
    theirs.train(training), model.train(training)
    monkeypatch.setattr(fairseq_hubert, "compute_mask_indices", lambda *_, **__: mask.numpy())
    result = theirs(source, [labels], padding_mask=torch.zeros_like(source, dtype=torch.bool))
    (expected,) = theirs.get_logits(result)  # (M, 1 + classes): the true one, then all, the true one −inf

    caught: list[torch.Tensor] = []
    model.ssl_head.label_heads[0].register_forward_hook(lambda _, __, logits: caught.append(logits))
    out = model(source, lengths, labels=[labels], mask=mask)
    truth = labels[mask]
    torch.testing.assert_close(
        caught[0].gather(1, truth[:, None])[:, 0], expected[:, 0], rtol=1e-4, atol=1e-4
    )
    others = caught[0].scatter(1, truth[:, None], float("-inf"))
    torch.testing.assert_close(others, expected[:, 1:], rtol=1e-4, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(expected, torch.zeros(36, dtype=torch.long), reduction="sum")
    torch.testing.assert_close(loss_of(out, "classification"), loss, rtol=1e-5, atol=1e-4)


def test_every_weight_of_a_hubert_checkpoint_is_taken(tmp_path: Path) -> None:
    theirs = hubert()
    model = ours(
        tmp_path, theirs, [CLASSES], online=False, label_head="cosine", final_dim=16, logit_temp=0.1, **SINGLE
    )
    assert len(model.state_dict()) == len(theirs.state_dict())
    total = sum(float(weight.double().sum()) for weight in theirs.state_dict().values())
    assert sum(float(weight.double().sum()) for weight in model.state_dict().values()) == pytest.approx(total)
