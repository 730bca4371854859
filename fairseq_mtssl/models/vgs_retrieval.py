"""The model of visual grounding, which embeds speech and images in one space.

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
    """Build the speech encoder that a configuration describes. layers: number of transformer layers."""
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
    """Embeds spoken captions and images; the score of a pair is the dot product of its embeddings.

    speech_encoder computes frames and a CLS token from waveforms, and speech_head embeddings (B, D) from
    these; image_encoder computes embeddings (M, D) of images. With cosine similarity there are also
    logit_scale, the logarithm of the learned scale, and the norms speech_norm and image_norm; with dot
    products they are None.
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
        """With bert_init, draw the weights of linear layers, of ResDAVEnet's convolutions and of the image
        encoder anew, as the paper's code does.
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
        """Called before a training batch. counted: False for a dummy batch, whose gradient fairseq ignores.

        Raises: ConfigError on the first batch if sync_ranks cannot be followed with several ranks.
        """
        self.ranks.counted = counted
        if self.sync_ranks and not self._ranks_checked and self.ranks.several():
            self._check_statistics()
        self._ranks_checked = True

    def _check_statistics(self) -> None:
        """Check that all batch norms are of this package; image encoders of timm may have others.

        sync_ranks has no effect on others. Raises: ConfigError.
        """
        local_norms = [
            name
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            and not isinstance(module, (FrameBatchNorm, nn.SyncBatchNorm))
            and module.training
        ]
        if local_norms:
            names = f"{len(local_norms)} batch norms ({local_norms[0]}, …)"
            hint = (
                "take an image encoder without batch norms, such as a ViT, train in one process, freeze it "
                "(model.frozen_parts=[image_encoder]), or give model.sync_ranks=false"
            )
            got = f"true, but the statistics of {names} are each rank's own"
            raise ConfigError("model.sync_ranks", [f"{got}; {hint}"])

    def share_buffers(self) -> None:
        """Copy the running statistics of the first rank, which checkpoints contain, to all ranks.

        To be called on all ranks. With sync_ranks they have the same statistics already.
        """
        if self.ranks.several():
            self.ranks.share_buffers(self)

    def modules_of(self, parts: Sequence[str]) -> dict[str, nn.Module]:
        """Return the modules of these parts by name, without those that this model does not have."""
        names = [name for part in parts for name in PARTS[part]]
        modules = {name: getattr(self, name, None) for name in names}
        return {name: module for name, module in modules.items() if module is not None}

    def freeze(self) -> None:
        """Freeze the frozen parts; called after all modules have been built."""
        for module in self.modules_of(self.cfg.frozen_parts).values():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VgsRetrievalModel":
        """Set the training mode of all parts except frozen ones, which stay in evaluation mode."""
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
        """The factor of cosines in the loss, at most 100; None with dot products."""
        return None if self.logit_scale is None else self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        images: Any = None,
        image_index: Optional[Tensor] = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Embed captions and images.

        source: (B, S) waveforms; lengths: (B,) samples; images: U distinct images as the image encoder takes
        them; image_index: (B,) index of the image of each caption.
        Returns: speech (B, D), image (U, D), image_index, scale.
        """
        extracted = self.speech_encoder.forward_features(source, lengths)
        return self.forward_vgs(extracted, self.forward_shared(extracted), images, image_index)

    def forward_shared(self, extracted: ExtractedFeatures, mask: Optional[Tensor] = None) -> Hidden:
        """Return the state after the last shared layer. mask: (B, T) bool, frames to mask."""
        return self.speech_encoder.forward_layers(
            self.speech_encoder.embed(extracted, mask), 0, self.cfg.shared_layers
        )

    def forward_vgs(
        self, extracted: ExtractedFeatures, shared: Hidden, images: Any, image_index: Any
    ) -> dict[str, Any]:
        """Return the output of `forward` for a batch whose shared layers have been run."""
        return {
            "speech": self._embed_speech(extracted, shared),
            "image": self.encode_image(images),
            "image_index": image_index,
            "scale": self.scale,
        }

    def vgs_loss(
        self, out: dict[str, Any], groups: Tensor, margin: float, gather: Optional[bool] = None
    ) -> tuple[Tensor, Tensor]:
        """Compute L_AV of the output of ``forward``, and its value at chance.

        groups: (B,) ints, equal for captions that count as captions of the same image; margin: for dot
        products; gather: takes negatives from all ranks; None: with cosine similarity only.
        A batch that does not count adds no pairs to those of the other ranks.
        Returns: two scalars in nats, sums over both directions; the second has no gradient.
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
        """Embed unmasked speech: (B, S) waveforms of (B,) samples -> (B, D)."""
        extracted = self.speech_encoder.forward_features(source, lengths)
        return self._embed_speech(extracted, self.forward_shared(extracted))

    def encode_image(self, images: Any) -> Tensor:
        """Embed images as the image encoder takes them: -> (M, D)."""
        return self._normalise(self.image_encoder(images), self.image_norm)

    def _embed_speech(self, extracted: ExtractedFeatures, shared: Hidden) -> Tensor:
        frames = self.speech_encoder.frames(shared)
        embedding = self.speech_head(frames, extracted.lengths, self.speech_encoder.cls(shared))
        return self._normalise(embedding, self.speech_norm)

    @staticmethod
    def _normalise(embedding: Tensor, norm: Optional[FrameBatchNorm]) -> Tensor:
        """Standardise each dimension by a batch norm, then divide each row by its length: (B, D) -> (B, D).

        Without subtraction of the mean, all cosines are near 1 at first, where the loss is flat, and some
        runs never leave this region. Divided by their standard deviations, all dimensions have the same
        weight in a cosine. norm: has no weights; None: embeddings are not changed.
        """
        if norm is None:
            return embedding
        # (B, D) -> (B, D, 1) -> (B, D)
        return nn.functional.normalize(norm(embedding.float().unsqueeze(-1)).squeeze(-1), dim=-1)

    def inactive_parameters(self, vgs: bool, ssl: bool) -> list[nn.Parameter]:
        """Return the parameters without gradient, which must not decay, if these branches are trained."""
        return [] if vgs else self.vgs_parameters()

    def vgs_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only the VGS branch uses."""
        scale = [] if self.logit_scale is None else [self.logit_scale]
        return [*self.speech_head.parameters(), *self.image_encoder.parameters(), *scale]
