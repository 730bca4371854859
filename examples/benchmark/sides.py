"""The two sides of a comparison: ours, and fairseq's modules, with the same interface and weights."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmark.parts import Size
from fairseq_mtssl.criterions.mt4ssl import Mt4sslCriterion
from fairseq_mtssl.criterions.ssl_loss import SslLossConfig
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.kernels.allocator import keep_freed_memory
from fairseq_mtssl.models.mt4ssl import Mt4sslConfig, Mt4sslModel
from fairseq_mtssl.optim.adamw import FusedAdamW, FusedAdamWConfig

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""Name of a precision here -> in our options."""


def computing_in(precision: str, device: torch.device | str) -> AbstractContextManager[None]:
    """Autocast for bf16, with weights of 32 bits; nothing for fp32."""
    where = torch.device(device).type
    return torch.autocast(where, dtype=torch.bfloat16, enabled=precision == "bf16")


MODULE = "fairseq.examples.data2vec.models.data2vec_audio"
NAMES = (
    *("conv_feature_layers", "extractor_mode", "conv_bias", "encoder_layers", "encoder_embed_dim"),
    *("encoder_ffn_embed_dim", "encoder_attention_heads", "pos_conv_depth", "conv_pos", "conv_pos_groups"),
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop"),
    *("feature_grad_mult", "average_top_k_layers", "ema_decay", "ema_end_decay"),
)
"""Fields that fairseq's configuration and ours have in common."""


def build_peer(cfg: Any, classes: int) -> nn.Module:
    """MT4SSL as its authors run it: fairseq's data2vec_audio with a further linear layer and a cross-entropy.

    All else is fairseq's: feature extractor, transformer, attention, teacher (EMAModule), regression loss.
    cfg: our Mt4sslConfig. Raises: ConfigError if fairseq was installed without its examples.
    Source: Ma et al. 2023, arXiv 2211.07321, whose code extends fairseq's model in this way.
    """
    try:
        module = importlib.import_module(MODULE)
    except ImportError as error:
        hint = "install fairseq with its examples"
        raise ConfigError("fairseq", [f"{MODULE} cannot be imported ({error}); {hint}"]) from error
    settings = {name: getattr(cfg, name) for name in NAMES}
    theirs = module.Data2VecAudioConfig(
        **settings,
        ema_anneal_end_step=cfg.ema_anneal_updates,
        instance_norm_target_layer=True,
        ema_layers_only=True,
        mask_prob=cfg.mask_prob,
        mask_length=cfg.mask_length,
        max_update=400_000,
    )
    return _official(module.Data2VecAudioModel)(theirs, classes)


def _official(base: Any) -> Any:
    class OfficialMt4ssl(base):
        """data2vec_audio that also classifies."""

        def __init__(self, cfg: Any, classes: int) -> None:
            super().__init__(cfg)
            self.label_proj = nn.Linear(cfg.encoder_embed_dim, classes)
            self._states: list[Tensor] = []
            self.final_proj.register_forward_pre_hook(self._keep)

        def _keep(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
            self._states.append(inputs[0])  # (M, D): the student at masked frames

        def apply_mask(self, x: Tensor, *words: Any, **more: Any) -> Any:
            # fairseq writes its mask embedding of 32 bits into x, which has 16 bits under autocast
            return super().apply_mask(x.float(), *words, **more)

        def forward(self, source: Tensor, *words: Any, labels: Tensor | None = None, **more: Any) -> Any:
            out = super().forward(source, *words, **more)
            if labels is not None:
                logits = self.label_proj(self._states.pop()).float()
                truth = labels[more["mask_indices"]]
                loss = nn.functional.cross_entropy(logits, truth, reduction="sum")
                out["losses"]["classification"] = loss
            return out

    return OfficialMt4ssl


SIDES = ("peer", "ours")
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.98), 1e-6, 0.01  # config/mt4ssl.yaml
LR = 1e-5  # as in its warm-up; a larger one would amplify rounding errors from update to update
RENAMED = {"final_proj.": "ssl_head.regression.", "label_proj.": "ssl_head.label_heads.0."}
"""The peer's names -> ours; all others are under speech_encoder."""
SWITCHED_OFF = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
}


def model_config(size: Size, **changes: Any) -> Mt4sslConfig:
    """Our configuration, without layerdrop, so that both sides run every layer in every update."""
    return Mt4sslConfig(**{"seed": 1, "encoder_layerdrop": 0.0, **size.model, **changes})


class Ours:
    """Our side: Mt4sslModel, Mt4sslCriterion, FusedAdamW and the task's step of the teacher.

    Attributes of both sides: conv, heads (modules) and teacher (object, name of its function) are those
    whose time is measured. by_autocast: whether half precision comes from autocast and not from the model.
    """

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
        """Load weights with the peer's names."""
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
    """fairseq's side: its modules, its Adam and its teacher, which steps as in fairseq's task."""

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
        """Load weights with its own names."""
        model = self.model
        teacher, model.ema = (
            model.ema,
            None,
        )  # with a teacher, its weights would be required
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
    """A side in training mode. weights: a file that `save` wrote. changes: to our configuration."""
    torch.manual_seed(0)
    found: Any = (Peer if side == "peer" else Ours)(size, device, **changes)
    if weights is not None:
        found.load(torch.load(weights, map_location="cpu", mmap=True))
    return found


def save(peer: Peer, path: Path) -> None:
    """Write the weights of a peer without its teacher, with which both sides begin."""
    torch.save({k: v for k, v in peer.model.state_dict().items() if k != "_ema"}, path)


def our_name(name: str) -> str:
    """Our name of a weight of the peer."""
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"speech_encoder.{name}"


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
