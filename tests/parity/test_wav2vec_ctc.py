"""fairseq's own `wav2vec_ctc` on a checkpoint of mt4ssl: its masking, and what it is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import tasks
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from omegaconf import OmegaConf
from tiny_recipes import TINY_MT4SSL
from torch import Tensor
from training import compose

from fairseq_mtssl.errors import ConfigError

DIM = TINY_MT4SSL["model.encoder_embed_dim"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As training saves it, as far as fairseq looks at it."""
    cfg = compose("mt4ssl_small", **{**TINY_MT4SSL, "task.data": "/nowhere", "task.labels": []})
    torch.manual_seed(0)
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    history = {"criterion_name": "C", "optimizer_name": "A", "lr_scheduler_state": {}, "num_updates": 7}
    path = tmp_path_factory.mktemp("pre") / "checkpoint.pt"
    torch.save(
        {
            "args": None,
            "cfg": OmegaConf.to_container(cfg),
            "model": model.state_dict(),
            "task_state": {"symbols": []},
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
            "optimizer_history": [history],
        },
        path,
    )
    return path


def finetuning(checkpoint: Path, **settings: Any) -> Wav2VecCtc:
    """fairseq's model of a vocabulary of eight, in training."""
    given = {"w2v_path": str(checkpoint), "normalize": True, "data": "/nowhere", "apply_mask": True}
    given |= {"mask_prob": 0.5, "mask_length": 3, "ddp_backend": "legacy_ddp", **settings}
    cfg = OmegaConf.merge(OmegaConf.structured(Wav2Vec2CtcConfig), given)
    return Wav2VecCtc.build_model(cfg, SimpleNamespace(target_dictionary=range(8))).train()


def masks_of(model: Wav2VecCtc, *batches: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The frames and channels that are masked in batches of one update."""
    encoder = model.w2v_encoder.w2v_model.speech_encoder
    found, embed = [], encoder.embed

    def watched(extracted: Any, mask: Tensor, channels: Tensor | None = None) -> Any:
        found.append((mask, channels))
        return embed(extracted, mask, channels)

    encoder.embed = watched
    for source in batches:
        model(source=source, padding_mask=None)
    return found


def test_channels_are_masked_as_wav2vec_ctc_asks(checkpoint: Path) -> None:
    torch.manual_seed(1)
    source = torch.randn(3, 9000)
    model = finetuning(checkpoint, mask_channel_prob=0.5, mask_channel_length=4)
    ((_, channels),) = masks_of(model, source)
    # half of 16 channels in spans of 4 are two spans, which may overlap, the same number in every row
    counts = channels.sum(1)
    assert channels.shape == (3, DIM) and 4 <= int(counts.min()) == int(counts.max()) <= 8
    ((_, none),) = masks_of(finetuning(checkpoint), source)
    assert none is None


def test_the_batches_of_an_update_draw_masks_of_their_own(checkpoint: Path) -> None:
    torch.manual_seed(1)
    first, second = torch.randn(2, 9000), torch.randn(2, 9000)
    drawn = masks_of(finetuning(checkpoint, mask_channel_prob=0.5, mask_channel_length=4), first, second)
    for one, other in zip(*drawn, strict=True):
        assert not torch.equal(one, other)
    # a clip draws what it draws in any batch and however wide that is padded
    ((again, _),) = masks_of(finetuning(checkpoint), first)
    assert torch.equal(again, drawn[0][0])


def test_an_update_draws_other_masks_than_the_one_before(checkpoint: Path) -> None:
    torch.manual_seed(1)
    source, model = torch.randn(2, 9000), finetuning(checkpoint)
    ((before, _),) = masks_of(model, source)
    model.set_num_updates(1)
    assert not torch.equal(masks_of(model, source)[-1][0], before)


@pytest.mark.parametrize(
    "setting",
    [{"mask_selection": "uniform"}, {"no_mask_channel_overlap": True}, {"mask_channel_before": True}],
)
def test_masking_that_is_not_there_is_refused(checkpoint: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        finetuning(checkpoint, **setting)


def test_raw_waveforms_for_a_model_of_normalised_ones_are_refused(checkpoint: Path) -> None:
    with pytest.raises(AssertionError, match="normalization"):
        finetuning(checkpoint, normalize=False)


def test_a_checkpoint_that_the_settings_cannot_reach_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Of a version whose configuration had neither field: fairseq passes over them in silence."""
    state = torch.load(checkpoint, weights_only=False)
    for name in ("mask_channel_prob", "normalize"):
        del state["cfg"]["model"][name]
    torch.save(state, tmp_path / "old.pt")
    model = finetuning(tmp_path / "old.pt", normalize=False, mask_channel_prob=0.5)
    with pytest.raises(ConfigError, match="model.mask_channel_prob"):
        model(source=torch.randn(2, 9000), padding_mask=None)
