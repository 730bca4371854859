"""The two sides of a comparison under one interface, and their weights under common names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from examples.benchmark.peer import build_peer
from examples.benchmark.sizes import Size
from fairseq_mtssl.criterions.mt4ssl import Mt4sslCriterion
from fairseq_mtssl.criterions.ssl_loss import SslLossConfig
from fairseq_mtssl.kernels.allocator import keep_freed_memory
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel
from fairseq_mtssl.optim.adamw import FusedAdamW, FusedAdamWConfig

SIDES = ("peer", "ours")
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.98), 1e-6, 0.01  # config/mt4ssl.yaml
LR = 1e-5  # as in its warm-up; more lets rounding grow from update to update
RENAMED = {"final_proj.": "ssl_head.regression.", "label_proj.": "ssl_head.label_heads.0."}
"""The peer's names -> ours; everything else is under speech_encoder."""
SWITCHED_OFF = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
}


class Side(Protocol):
    """A model in training; `optimizer` is a FairseqOptimizer.

    conv, heads: modules, and teacher: (object, name of its function), whose time is told apart.
    by_autocast: half precision comes from outside, not from an option of the model.
    """

    by_autocast: bool

    model: Any
    optimizer: Any
    conv: nn.Module
    heads: list[nn.Module]
    teacher: tuple[Any, str]

    def start(self, update: int) -> None:
        """Before the forward pass of an update, counted from 0."""
        ...

    def loss(self, sample: dict[str, Any]) -> tuple[Tensor, int]:
        """The summed loss of a batch, and its masked frames."""
        ...

    def finish(self, update: int) -> None:
        """After the optimizer's step."""
        ...


def model_config(size: Size, **changes: Any) -> Mt4sslConfig:
    """Our configuration. No layerdrop: both sides run every layer of every update."""
    return Mt4sslConfig(**{"seed": 1, "encoder_layerdrop": 0.0, **size.model, **changes})


class Ours:
    """Mt4sslModel, Mt4sslCriterion, FusedAdamW and the task's step of the teacher."""

    by_autocast = False

    def __init__(self, size: Size, device: torch.device, **changes: Any) -> None:
        keep_freed_memory()  # as the set-up of a task does
        namespace = SimpleNamespace(label_classes=[size.classes])
        model = Mt4sslModel.build_model(model_config(size, **changes), namespace)
        self.model: Any = model.to(device).train()
        self.criterion = Mt4sslCriterion(SslLossConfig(), None).train()
        cfg = FusedAdamWConfig(betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, lr=[LR])
        self.optimizer = FusedAdamW(cfg, list(trained(self.model)))
        head: Any = self.model.ssl_head
        self.conv = self.model.speech_encoder.feature_extractor
        self.heads = [head.regression, *head.label_heads]
        self.teacher = (head, "online_targets")

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take weights under the peer's names."""
        named = {our_name(name): weight for name, weight in weights.items()}
        missing, unknown = self.model.load_state_dict(named, strict=False)
        if unknown or any(not name.startswith("ssl_head.teacher.") for name in missing):
            raise ValueError(f"the peer's weights do not fit: missing {missing}, unknown {unknown}")
        self.model.reset_branch()

    def start(self, update: int) -> None:
        self.optimizer.zero_grad()
        self.model.set_num_updates(update)

    def loss(self, sample: dict[str, Any]) -> tuple[Tensor, int]:
        loss, frames, _ = self.criterion(self.model, sample)
        return loss, frames

    def finish(self, update: int) -> None:
        self.model.step_branch(update + 1)


class Peer:
    """fairseq's modules, its Adam, and its teacher, which steps where fairseq's task makes it step."""

    by_autocast = True

    def __init__(self, size: Size, device: torch.device, **changes: Any) -> None:
        from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

        built: Any = build_peer(model_config(size, **changes), size.classes).to(device).train()
        built.make_ema_teacher()
        self.model = built
        cfg = FairseqAdamConfig(adam_betas=str(BETAS), adam_eps=EPS, weight_decay=WEIGHT_DECAY, lr=[LR])
        self.optimizer = FairseqAdam(cfg, list(trained(self.model)))
        self.conv = self.model.feature_extractor
        self.heads = [self.model.final_proj, self.model.label_proj]
        self.teacher: tuple[Any, str] = (built.ema.model, "extract_features")

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take weights under its own names."""
        model = self.model
        teacher, model.ema = model.ema, None  # with one, it wants the teacher's weights as well
        model.load_state_dict(weights)
        model.ema = teacher
        teacher.restore(model.encoder.state_dict(), build_fp32_params=True)

    def start(self, update: int) -> None:
        self.optimizer.zero_grad()
        if update:
            self.model.set_num_updates(update)

    def loss(self, sample: dict[str, Any]) -> tuple[Tensor, int]:
        given = sample["net_input"]
        (labels,) = sample["labels"]
        out = self.model(given["source"], None, mask=True, mask_indices=given["mask"], labels=labels)
        loss: Tensor = sum(out["losses"].values())
        return loss, out["sample_size"]

    def finish(self, update: int) -> None:
        pass


def build(side: str, size: Size, device: torch.device, weights: Path | None = None, **changes: Any) -> Any:
    """A side in training mode, from the weights that `save` wrote where they are given.

    changes: to our configuration.
    """
    torch.manual_seed(0)
    found: Any = (Peer if side == "peer" else Ours)(size, device, **changes)
    if weights is not None:
        found.load(torch.load(weights, map_location="cpu", mmap=True))
    return found


def save(peer: Peer, path: Path) -> None:
    """Write the weights of a peer without its teacher, for both sides to begin with."""
    torch.save({k: v for k, v in peer.model.state_dict().items() if k != "_ema"}, path)


def our_name(name: str) -> str:
    """What we call a weight of the peer."""
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"speech_encoder.{name}"


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Its parameters but for the teacher's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
