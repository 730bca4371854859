"""Visually grounded speech: speech and images embedded in one space.

Source: Khorrami et al. 2023, arXiv 2306.02972 (the VGS branch of VGS+), after FaST-VGS,
Peng & Harwath 2022, arXiv 2109.08186.
"""

import logging
import math
from typing import Any, Optional, Sequence

import torch
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.image_encoders.base import encoder_named
from fairseq_mtssl.models.encoder import build_speech_encoder
from fairseq_mtssl.models.grounding_config import (
    MAX_SCALE,
    PARTS,
    VgsRetrievalConfig,
    check_config,
    image_options,
    part_errors,
    positions_see_padding,
    resolve,
)
from fairseq_mtssl.modules.attention import BertOptions, init_bert, init_std
from fairseq_mtssl.modules.contrastive import (
    gather_pairs,
    info_nce,
    margin_info_nce,
    same_image_mask,
    tied_loss,
)
from fairseq_mtssl.modules.frame_batch_norm import FrameBatchNorm
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.rank_sums import RankSums
from fairseq_mtssl.modules.resdavenet import ResDavenetOptions
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.modules.speech_head import VgsSpeechHead

logger = logging.getLogger(__name__)


def speech_encoder_of(cfg: VgsRetrievalConfig, layers: int) -> SpeechEncoder:
    """The speech encoder that a model config describes, with so many transformer layers."""
    return build_speech_encoder(
        cfg,
        layers=layers,
        use_cls=True,
        extractor_mode=resolve(cfg, "extractor_mode"),
        padding_exact=resolve(cfg, "padding_exact"),
        positions_see_padding=positions_see_padding(cfg),
    )


@register_model("vgs_retrieval", dataclass=VgsRetrievalConfig)
class VgsRetrievalModel(BaseFairseqModel):
    """Embeds spoken captions and images; their score is the dot product of the embeddings.

    speech_encoder: waveform to frames and CLS of the last shared layer; speech_head: those to (B, D);
    image_encoder: images to (M, D). With cosine similarity also logit_scale, the log of the learned scale,
    and speech_norm and image_norm, which standardise the embeddings; None for raw products.
    """

    has_ssl = False

    def __init__(self, cfg: VgsRetrievalConfig, speech_encoder: SpeechEncoder) -> None:
        super().__init__()
        self.cfg = cfg
        self.speech_encoder = speech_encoder
        bert = BertOptions(
            cfg.encoder_embed_dim, cfg.encoder_attention_heads, cfg.encoder_ffn_embed_dim, cfg.dropout
        )
        resdavenet = ResDavenetOptions(
            in_channels=cfg.speech_in_channels,
            channels=tuple(cfg.speech_channels),
            kernel=cfg.speech_kernel,
            strides=tuple(cfg.speech_strides),
            masked=resolve(cfg, "padding_exact"),
        )
        self.speech_head = VgsSpeechHead(bert, resdavenet)
        self.image_encoder = encoder_named(str(cfg.image_encoder))(image_options(cfg))
        cosine = resolve(cfg, "similarity") == "cosine"
        # 0.07: Radford et al. 2021, arXiv 2103.00020, section 2.5.
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(cfg.similarity_temp))) if cosine else None
        self.speech_norm = FrameBatchNorm(cfg.encoder_embed_dim, affine=False) if cosine else None
        self.image_norm = FrameBatchNorm(cfg.encoder_embed_dim, affine=False) if cosine else None
        self.ranks = RankSums()
        self.sync_ranks = bool(resolve(cfg, "sync_ranks"))
        self._ranks_checked = False
        for module in self.modules():
            if isinstance(module, FrameBatchNorm) and self.sync_ranks:
                module.ranks = self.ranks

    def draw_weights(self) -> None:
        """With bert_init, draw weights anew as the paper's code does: those of linear layers and ResDAVEnet's
        convolutions, and what the image encoder has to draw.
        """
        if not resolve(self.cfg, "bert_init"):
            return
        for name in ("speech_encoder", "speech_head", "ssl_head"):
            module = getattr(self, name, None)
            if module is not None:
                init_bert(module, init_std(self.cfg.encoder_embed_dim))
        self.speech_head.resdavenet.draw_convolutions()
        self.image_encoder.draw_as_paper()

    def begin_batch(self, counted: bool) -> None:
        """Say before a training batch whether it counts, or is one that fairseq repeats without weight.

        Raises: ConfigError on the first batch of several ranks if their statistics cannot be taken together.
        """
        self.ranks.counted = counted
        if self.sync_ranks and not self._ranks_checked and self.ranks.several():
            self._check_statistics()
        self._ranks_checked = True

    def _check_statistics(self) -> None:
        """sync_ranks reaches the batch norms of this package; an image encoder of timm may have its own."""
        apart = [
            name
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            and not isinstance(module, (FrameBatchNorm, nn.SyncBatchNorm))
            and module.training
        ]
        if apart:
            got = f"true, but the statistics of {len(apart)} batch norms ({apart[0]}, …) are each rank's own"
            hint = (
                "take an image encoder without batch norms, such as a ViT, train in one process, freeze it "
            )
            hint += "(model.frozen_parts=[image_encoder]), or give model.sync_ranks=false"
            raise ConfigError("model.sync_ranks", [f"{got}; {hint}"])

    def share_buffers(self) -> None:
        """Give all ranks the first one's running statistics, those that a checkpoint keeps.

        To be called on all of them. With sync_ranks they are the same already.
        """
        if self.ranks.several():
            self.ranks.share_buffers(self)

    def modules_of(self, parts: Sequence[str]) -> dict[str, nn.Module]:
        """Name -> module of these parts; of those in PARTS that this model has."""
        names = [name for part in parts for name in PARTS[part]]
        found = {name: getattr(self, name, None) for name in names}
        return {name: module for name, module in found.items() if module is not None}

    def freeze(self) -> None:
        """Take the frozen parts out of training, once all modules are there; `train` keeps them so."""
        for module in self.modules_of(self.cfg.frozen_parts).values():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VgsRetrievalModel":
        """As torch's; frozen parts stay as in evaluation, so that no dropout or batch touches them."""
        super().train(mode)
        for module in self.modules_of(self.cfg.frozen_parts).values():
            module.eval()
        return self

    @classmethod
    def build_model(cls, cfg: VgsRetrievalConfig, task: Any = None) -> "VgsRetrievalModel":
        """Called by fairseq. Raises: ConfigError naming every error."""
        check_config(cfg, part_errors(cfg, [part for part in PARTS if part != "ssl_head"]))
        model = cls(cfg, speech_encoder_of(cfg, cfg.shared_layers))
        model.draw_weights()
        model.freeze()
        return model

    @property
    def scale(self) -> Optional[Tensor]:
        """What multiplies cosine similarities in the loss, at most 100; None for raw products."""
        return None if self.logit_scale is None else self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        images: Any = None,
        image_index: Optional[Tensor] = None,
        **_: Any,
    ) -> dict[str, Any]:
        """source: (B, S) waveforms; lengths: (B,) samples; images: of the image encoder, U distinct ones;
        image_index: (B,) which image belongs to each caption.
        Returns: speech (B, D), image (U, D), image_index, scale.
        """
        extracted = self.speech_encoder.forward_features(source, lengths)
        return self.forward_vgs(extracted, self.forward_shared(extracted), images, image_index)

    def forward_shared(self, extracted: ExtractedFeatures, mask: Optional[Tensor] = None) -> Hidden:
        """The state after the last shared layer; mask: (B, T) bool, frames hidden from it."""
        return self.speech_encoder.forward_layers(
            self.speech_encoder.embed(extracted, mask), 0, self.cfg.shared_layers
        )

    def forward_vgs(
        self, extracted: ExtractedFeatures, shared: Hidden, images: Any, image_index: Any
    ) -> dict[str, Any]:
        """The VGS outputs of a batch whose shared layers have been run."""
        return {
            "speech": self._embed_speech(extracted, shared),
            "image": self.encode_image(images),
            "image_index": image_index,
            "scale": self.scale,
        }

    def vgs_loss(
        self, out: dict[str, Any], groups: Tensor, margin: float, gather: Optional[bool] = None
    ) -> tuple[Tensor, Tensor]:
        """L_AV of what ``forward`` returned, and what it is when nothing is known.

        groups: (B,) ints, equal where captions count as having the same image. margin: for raw products.
        gather: take negatives from all ranks; None does so with cosine similarity.
        A batch that does not count adds no pairs to those of the other ranks.
        Returns: two scalars in nats, both directions summed; the second has no gradient.
        """
        speech, image, scale = out["speech"], out["image"][out["image_index"]], out["scale"]
        if (scale is not None) if gather is None else gather:
            pairs = len(speech) if self.ranks.counted or not self.ranks.several() else 0
            speech, image, same = gather_pairs(speech[:pairs], image[:pairs], groups[:pairs])
        else:
            same = same_image_mask(groups)
        if scale is None:
            return margin_info_nce(speech, image, margin, same), tied_loss(same, margin)
        return info_nce(speech, image, scale, same), tied_loss(same)

    def encode_speech(self, source: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) waveforms of (B,) samples -> (B, D), unmasked."""
        extracted = self.speech_encoder.forward_features(source, lengths)
        return self._embed_speech(extracted, self.forward_shared(extracted))

    def encode_image(self, images: Any) -> Tensor:
        """Images as the image encoder takes them -> (M, D)."""
        return self._on_sphere(self.image_encoder(images), self.image_norm)

    def _embed_speech(self, extracted: ExtractedFeatures, shared: Hidden) -> Tensor:
        frames = self.speech_encoder.frames(shared)
        embedding = self.speech_head(frames, extracted.lengths, self.speech_encoder.cls(shared))
        return self._on_sphere(embedding, self.speech_norm)

    @staticmethod
    def _on_sphere(embedding: Tensor, norm: Optional[FrameBatchNorm]) -> Tensor:
        """(B, D) -> (B, D): each dimension standardised over the batch, then each row divided by its length.

        Standardised: minus its mean and divided by its standard deviation, in evaluation the running ones (a
        batch norm without weights). Without subtracting the mean all cosines start near 1, where the loss is
        flat: some runs never leave it. After the division every dimension weighs the same in a cosine.
        """
        if norm is None:
            return embedding
        # (B, D) -> (B, D, 1) -> (B, D)
        return nn.functional.normalize(norm(embedding.float().unsqueeze(-1)).squeeze(-1), dim=-1)

    def inactive_parameters(self, vgs: bool, ssl: bool) -> list[nn.Parameter]:
        """Parameters that get no gradient when a branch is off; they must not decay either."""
        return [] if vgs else self.vgs_parameters()

    def vgs_parameters(self) -> list[nn.Parameter]:
        """Parameters of the VGS branch alone."""
        scale = [] if self.logit_scale is None else [self.logit_scale]
        return [*self.speech_head.parameters(), *self.image_encoder.parameters(), *scale]

    def max_positions(self) -> None:
        return None
