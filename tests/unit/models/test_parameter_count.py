"""The full-size model of the paper preset has the paper's parameters, part by part (arXiv 2306.02972)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq_mtssl.criterions.joint_ssl_vgs import JointSslVgsCriterion, JointSslVgsCriterionConfig
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel


@pytest.fixture(scope="module")
def full_size() -> JointSslVgsModel:
    torch.manual_seed(0)
    return JointSslVgsModel.build_model(JointSslVgsConfig(image_size=224, seed=1))


def count(*parts: nn.Module | nn.Parameter | None) -> int:
    total = 0
    for part in parts:
        if isinstance(part, nn.Parameter):
            total += part.numel()
        elif part is not None:
            total += sum(p.numel() for p in part.parameters() if p.requires_grad)
    return total


def test_parameter_count_of_joint_sequential_is_the_papers(full_size: JointSslVgsModel) -> None:
    assert count(full_size) == 182_620_288


def test_parameter_count_of_each_part_is_the_papers(full_size: JointSslVgsModel) -> None:
    speech, head, image = full_size.speech_encoder, full_size.speech_head, full_size.image_encoder
    parts = {
        "conv extractor": count(speech.feature_extractor),
        "layer norm": count(speech.layer_norm),
        "post-extract projection": count(speech.post_extract_proj),
        "mask embedding": count(speech.mask_emb),
        "CLS": count(speech.cls_token),
        "transformer": count(speech.encoder),
        "quantizer": count(full_size.ssl_head.quantizer),
        "project_q": count(full_size.ssl_head.project_q),
        "final_proj": count(full_size.ssl_head.final_proj),
        "speech head": count(head),
        "image encoder": count(image),
    }
    assert parts == {
        "conv extractor": 4_200_448,
        "layer norm": 1_024,
        "post-extract projection": 393_984,
        "mask embedding": 768,
        "CLS": 768,
        "transformer": 89_775_488,
        "quantizer": 410_240,
        "project_q": 65_792,
        "final_proj": 196_864,
        "speech head": 31_064_704 + 2_361_600 + 7_087_872 + 590_592,
        "image encoder": 1_580_544 + 768 + 42_527_232 + 2_361_600,
    }
    assert sum(parts.values()) == 182_620_288


def test_one_full_size_update_moves_every_trained_parameter(full_size: JointSslVgsModel) -> None:
    torch.manual_seed(0)
    source = torch.randn(2, 16_000)
    sample = {
        "net_input": {
            "source": source,
            "lengths": torch.tensor([16_000, 12_000]),
            "images": {"regions": torch.randn(2, 36, 2048), "boxes": torch.rand(2, 36, 4)},
            "image_index": torch.arange(2),
        },
        "id": torch.arange(2),
        "image_group": torch.arange(2),
        "ntokens": 28_000,
        "nsentences": 2,
    }
    full_size.train()
    criterion = JointSslVgsCriterion(JointSslVgsCriterionConfig(), None).train()
    before = {name: p.detach().clone() for name, p in full_size.named_parameters()}
    optimizer = torch.optim.SGD(full_size.parameters(), lr=1.0)
    loss, size, log = criterion(full_size, sample)
    loss.backward()
    optimizer.step()
    assert size == 1 and torch.isfinite(loss)
    assert {"loss_vgs", "loss_ssl"} <= set(log)
    still = [name for name, p in full_size.named_parameters() if torch.equal(before[name], p)]
    # A key's bias shifts all scores of a query alike, so its gradient is 0 but for rounding.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []
