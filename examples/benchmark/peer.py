"""MT4SSL as its authors run it: fairseq's data2vec_audio with one more linear layer and its cross-entropy.

Everything else is fairseq's own: convolutional feature extractor, transformer, attention, teacher
(EMAModule), regression loss, Adam.
Source: Ma et al. 2023, arXiv 2211.07321, whose code extends fairseq's model in this way.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError

MODULE = "fairseq.examples.data2vec.models.data2vec_audio"
NAMES = (
    *("conv_feature_layers", "extractor_mode", "conv_bias", "encoder_layers", "encoder_embed_dim"),
    *("encoder_ffn_embed_dim", "encoder_attention_heads", "pos_conv_depth", "conv_pos", "conv_pos_groups"),
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "encoder_layerdrop"),
    *("feature_grad_mult", "average_top_k_layers", "ema_decay", "ema_end_decay"),
)
"""Fields of the same name and meaning in fairseq's configuration and in ours."""


def build_peer(cfg: Any, classes: int) -> nn.Module:
    """fairseq's model of the same size as ours.

    cfg: our Mt4sslConfig. Raises: ConfigError where fairseq was installed without its examples.
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
        """data2vec_audio that classifies, too."""

        def __init__(self, cfg: Any, classes: int) -> None:
            super().__init__(cfg)
            self.label_proj = nn.Linear(cfg.encoder_embed_dim, classes)
            self._states: list[Tensor] = []
            self.final_proj.register_forward_pre_hook(self._keep)

        def _keep(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
            self._states.append(inputs[0])  # (M, D): the student at masked frames

        def apply_mask(self, x: Tensor, *words: Any, **more: Any) -> Any:
            # fairseq writes its mask embedding in 32 bits into x, which autocast makes 16 bits wide
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
