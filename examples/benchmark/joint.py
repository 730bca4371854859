"""Measures updates of VGS alone in the joint model, and in the same model built without its SSL layers."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import torch

from examples.benchmark.inputs import utterances
from examples.benchmark.machine import Timing, peak_mb
from examples.benchmark.parts import SIZES, Size
from examples.benchmark.sides import SWITCHED_OFF, trained
from fairseq_mtssl.criterions.joint_ssl_vgs import JointSslVgsCriterion, JointSslVgsCriterionConfig
from fairseq_mtssl.criterions.vgs_retrieval import VgsRetrievalCriterion, VgsRetrievalCriterionConfig
from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.kernels.allocator import keep_freed_memory
from fairseq_mtssl.models.grounding_config import VgsRetrievalConfig
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalModel
from fairseq_mtssl.optim.adamw import FusedAdamW, FusedAdamWConfig
from fairseq_mtssl.schedule import StepWeights

REGIONS = 36
MODELS = ("joint", "vgs")
SSL_ONLY = ("encoder_layers", "final_dim", "latent_vars", "num_negatives")


def measure(size: str, model: str, device: str) -> Generator[dict[str, Any]]:
    """Time updates of one model. model: `joint` or `vgs`.

    Yields: also the first loss, and the number of parameters of SSL alone that got a gradient.
    """
    sizes, where = SIZES[size], torch.device(device)
    keep_freed_memory()  # as the set-up of a task does
    own, criterion = build(sizes, model, where)
    sample = pairs(sizes, where)
    cfg = FusedAdamWConfig(weight_decay=0.01, lr=[1e-4])
    optimizer = FusedAdamW(cfg, list(trained(own)))
    clips, seconds = sizes.joint_batch
    facts: dict[str, Any] = {"audio_s": clips * seconds}
    for update in itertools.count():
        with Timing(where) as timing:
            optimizer.zero_grad()
            loss, _, _ = criterion(own, sample)
            loss.backward()
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
        facts.setdefault("loss", float(loss.detach()))
        if update >= sizes.warm_up:
            silent = own.inactive_parameters(vgs=True, ssl=False)
            dead = sum(parameter.grad is not None for parameter in silent)
            yield timing.sample(dead_gradients=dead, **facts, **peak_mb(where))


def build(size: Size, model: str, device: torch.device) -> tuple[Any, Any]:
    """A model and its criterion. Both models have the same initial weights, except for the SSL layers.

    Without dropout, they therefore give the same loss.
    """
    settings: dict[str, Any] = {"seed": 1, "image_size": 224, **SWITCHED_OFF, **size.joint}
    settings["vgs_masked"] = False  # a model without SSL masks nothing
    grounded = {name: value for name, value in settings.items() if name not in SSL_ONLY}
    torch.manual_seed(0)
    vgs = VgsRetrievalModel.build_model(_config(VgsRetrievalConfig, grounded))
    criterion: Any = VgsRetrievalCriterion(VgsRetrievalCriterionConfig(), None)
    own: Any = vgs
    if model == "joint":
        own = JointSslVgsModel.build_model(_config(JointSslVgsConfig, settings))
        own.load_state_dict(vgs.state_dict(), strict=False)
        criterion = JointSslVgsCriterion(JointSslVgsCriterionConfig(), None)
    return own.to(device).train(), criterion.train()


def _config(kind: Any, settings: dict[str, Any]) -> Any:
    known = kind.__dataclass_fields__
    return kind(**{name: value for name, value in settings.items() if name in known})


def pairs(size: Size, device: torch.device) -> dict[str, Any]:
    """A batch of captions, each with the regions of its image."""
    clips, seconds = size.joint_batch
    wavs = utterances((seconds,) * clips)
    source = torch.stack([torch.from_numpy(normalise(wav)) for wav in wavs]).to(device)
    generator = torch.Generator().manual_seed(0)
    width = size.joint.get("image_feature_dim", 2048)
    images = {
        "regions": torch.randn(clips, REGIONS, width, generator=generator).to(device),
        "boxes": torch.rand(clips, REGIONS, 4, generator=generator).to(device),
    }
    rows = torch.arange(clips, device=device)
    return {
        "net_input": {
            "source": source,
            "lengths": torch.full((clips,), source.size(1), device=device),
            "images": images,
            "image_index": rows,
        },
        "id": rows.cpu(),
        "image_group": rows,
        "ntokens": source.numel(),
        "nsentences": clips,
        "step": StepWeights(phase=0, name="vgs", update=0, vgs_weight=1.0, ssl_weight=0.0, lr_factor=1.0),
    }
