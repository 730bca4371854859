"""Parts of a model: started from a checkpoint, and frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ssl_figures import loss_of as ssl_loss_of
from tiny_grounding import JOINT, build_joint

from fairseq_mtssl import checkpoints
from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.models.grounding_config import PARTS, VgsRetrievalConfig
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel
from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalModel


def saved(tmp_path: Path, model: torch.nn.Module) -> Path:
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def loss_of(model: JointSslVgsModel) -> torch.Tensor:
    """Every part takes part: a sum of the contrastive loss, the speech and the image embeddings."""
    torch.manual_seed(1)
    images = torch.randint(255, (3, 3, 16, 16), dtype=torch.uint8)
    lengths, ids = torch.tensor([8000, 7000, 6000]), torch.arange(3)
    out = model(torch.randn(3, 8000), lengths, images, ids, ids=ids)
    weights = torch.linspace(-1, 1, 16)
    return ssl_loss_of(out["ssl"][0], "contrastive") + ((out["speech"] + 2 * out["image"]) * weights).sum()


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_is_bit_identical_after_updates_and_the_others_learn(part: str) -> None:
    model = build_joint(frozen_parts=[part], dropout=0.1)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    every = {module for modules in PARTS.values() for module in modules}
    assert changed == every - set(PARTS[part])


def test_a_frozen_part_is_as_in_evaluation_whatever_the_model_does() -> None:
    model = build_joint(frozen_parts=["image_encoder"])
    for mode in (True, False, True):
        model.train(mode)
        assert model.speech_head.training is model.speech_norm.training is mode
        assert not any(module.training for module in model.image_encoder.modules())
        assert not model.image_norm.training


def test_nothing_is_frozen_by_default() -> None:
    model = build_joint()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.train().modules())


def test_a_frozen_head_has_a_teacher_that_does_not_move() -> None:
    model = build_joint(ssl="data2vec", frozen_parts=["ssl_head"], average_top_k_layers=2)
    before = {name: value.clone() for name, value in model.ssl_head.state_dict().items()}
    with torch.no_grad():
        for parameter in model.speech_encoder.parameters():
            parameter += 1
    model.step_branch(1)
    assert all(torch.equal(value, before[name]) for name, value in model.ssl_head.state_dict().items())


def test_only_the_parts_named_are_started_from_a_checkpoint(tmp_path: Path) -> None:
    other, model = build_joint(weight_seed=5), build_joint()
    other.image_norm.running_mean += 3
    path = saved(tmp_path, other)
    mine = {name: value.clone() for name, value in model.state_dict().items()}
    modules = list(model.modules_of(["image_encoder"]))
    assert modules == ["image_encoder", "image_norm"]
    assert not checkpoints.initialise(model, checkpoints.read_start(path), "ssl_head.teacher.", modules)
    for name, value in model.state_dict().items():
        source = other.state_dict() if name.split(".")[0] in modules else mine
        assert torch.equal(value, source[name]), name


def test_a_part_that_the_checkpoint_lacks_is_an_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields = VgsRetrievalConfig.__dataclass_fields__
    settings = {key: value for key, value in JOINT.items() if key in fields}
    path = saved(tmp_path, VgsRetrievalModel.build_model(VgsRetrievalConfig(**settings)))
    model = build_joint()
    with pytest.raises(CheckpointError, match="ssl_head has no weight there"):
        modules = list(model.modules_of(["ssl_head", "image_encoder"]))
        checkpoints.initialise(model, checkpoints.read_start(path), modules=modules)


def test_every_fault_of_the_parts_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_joint(init_parts=["ears", "ssl_head"], frozen_parts=[*PARTS, "ssl_head"], shared_layers=5)
    said = str(caught.value)
    for word in ("init_parts 'ears': wanted one of speech_encoder", "without init_from", "'ssl_head' twice"):
        assert word in said
    assert "nothing would be trained" in said and "shared_layers 5" in said
    settings = {key: value for key, value in JOINT.items() if key in VgsRetrievalConfig.__dataclass_fields__}
    with pytest.raises(ConfigError, match="frozen_parts 'ssl_head': wanted one of"):
        VgsRetrievalModel.build_model(VgsRetrievalConfig(**settings, frozen_parts=["ssl_head"]))
