"""The configuration of visually grounded models: presets, fields, parts of the model, and the errors in them.

Source: Khorrami et al. 2023, arXiv 2306.02972, and its published code (docs/paper_and_code.md).
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence

from fairseq.dataclass import ChoiceEnum
from omegaconf import II

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.image_encoders.base import IMAGE_ENCODERS, encoder_named
from fairseq_mtssl.image_encoders.cnn import CnnOptions
from fairseq_mtssl.image_encoders.patches import PatchOptions
from fairseq_mtssl.image_encoders.regions import RegionOptions
from fairseq_mtssl.image_encoders.timm import TimmOptions
from fairseq_mtssl.models.encoder import EncoderConfig, encoder_errors
from fairseq_mtssl.models.options import read_options

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "extractor_mode": "default",
        "padding_exact": False,
        "positions_see_padding": True,
        "similarity": "dot",
        "latent_temp": (2.0, 2.0, 1.0),
        "vgs_masked": True,
        "same_mask_count": True,
        "sync_ranks": False,
        "bert_init": True,
    },
    "modern": {
        "extractor_mode": "layer_norm",
        "padding_exact": True,
        "positions_see_padding": False,
        "similarity": "cosine",
        "latent_temp": (2.0, 0.5, 0.999995),
        "vgs_masked": False,
        "same_mask_count": False,
        "sync_ranks": True,
        "bert_init": False,
    },
}
"""The values that fields take from the preset if they are null."""

MAX_SCALE = 100.0

PARTS: dict[str, tuple[str, ...]] = {
    "speech_encoder": ("speech_encoder",),
    "speech_head": ("speech_head", "speech_norm"),
    "image_encoder": ("image_encoder", "image_norm"),
    "ssl_head": ("ssl_head",),
}
"""The names of parts in init_parts and frozen_parts, with the modules of each part."""


@dataclass
class VgsRetrievalConfig(EncoderConfig, RegionOptions, CnnOptions, PatchOptions, TimmOptions):
    """The fields of a visually grounded model, including those of this package's image encoders."""

    preset: ChoiceEnum(["paper", "modern"]) = field(  # type: ignore[valid-type]
        default="paper",
        metadata={
            "help": "values of the fields that are null. paper: as in the code of arXiv 2306.02972 "
            "(docs/paper_and_code.md), where in the joint model VGS trains on masked speech at every alpha; "
            "modern: normalised embeddings with a learned scale, output that does not depend on padding, "
            "annealed Gumbel temperature, statistics over all ranks"
        },
    )
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint to start from: one of this package (every part that fits) or of fairseq's "
            "wav2vec2 (the speech encoder and the SSL head); not needed to resume, evaluate or fine-tune"
        },
    )
    init_parts: List[str] = field(
        default_factory=list,
        metadata={
            "help": "parts to take from init_from, of speech_encoder, speech_head, image_encoder and, in the "
            "joint model, ssl_head; empty: every part that fits"
        },
    )
    frozen_parts: List[str] = field(
        default_factory=list,
        metadata={
            "help": "parts, named as in init_parts, that training does not change: without gradient, weight "
            "decay, dropout and updates of batch statistics"
        },
    )
    # speech encoder
    extractor_mode: Optional[str] = field(
        default=None, metadata={"help": "default (group norm after the first convolution) or layer_norm"}
    )
    shared_layers: int = field(
        default=8,
        metadata={"help": "speech layers below the VGS branch; in the joint model SSL shares them"},
    )
    conv_pos: int = field(default=128, metadata={"help": "kernel of the positional convolution, frames"})
    pos_conv_depth: int = field(
        default=1,
        metadata={"help": "layers of the positional convolution, among which conv_pos is divided"},
    )
    dropout_input: float = field(default=0.1, metadata={"help": "dropout of the projected conv features"})
    encoder_layerdrop: float = field(
        default=0.0, metadata={"help": "probability of skipping a speech layer, [0, 1)"}
    )
    padding_exact: Optional[bool] = field(
        default=None,
        metadata={"help": "the output for a clip does not depend on its padding; needs layer_norm"},
    )
    positions_see_padding: Optional[bool] = field(
        default=None,
        metadata={
            "help": "at padding, give the positional convolution the output of the feature extractor, as the "
            "paper's code does; false: zeros, as fairseq does. With padding_exact always false"
        },
    )
    # speech head
    speech_channels: List[int] = field(
        default_factory=lambda: [128, 256, 512, 768], metadata={"help": "channels of ResDAVEnet's stages"}
    )
    speech_in_channels: int = field(default=128, metadata={"help": "channels before its first stage"})
    speech_strides: List[int] = field(default_factory=lambda: [2, 2, 2, 2], metadata={"help": "its strides"})
    speech_kernel: int = field(default=9, metadata={"help": "its kernel, odd"})
    # image branch
    image_encoder: str = field(
        default="regions",
        metadata={
            "help": "regions (features of image regions and their boxes), cnn, patches, timm:<name>, or one "
            "of a plugin"
        },
    )
    image_size: int = II("task.image_size")
    # typed Any for the same reason as ssl_options
    image_encoder_options: Any = field(
        default=None,
        metadata={"help": "options of the image encoder that have no field here, by name, as {depth: 3}"},
    )
    bert_init: Optional[bool] = field(
        default=None,
        metadata={
            "help": "initialise as the paper's code does: all linear layers, including the quantizer's, as "
            "in BERT (standard deviation 0.02 at 768 dimensions, biases 0), ResDAVEnet's convolutions from "
            "N(0, 2 / (kernel · channels out)), the CLS token of regions from N(0, 1); false: ResDAVEnet and "
            "linear layers outside transformers as torch does, the quantizer as fairseq does"
        },
    )
    sync_ranks: Optional[bool] = field(
        default=None,
        metadata={
            "help": "with several ranks (GPUs), compute batch-norm statistics, the use of the codebook and "
            "means over frames over all ranks, so that N ranks train like one with N times the batch; "
            "false: over each rank, as the paper's code does"
        },
    )
    # the shared space
    similarity: Optional[str] = field(
        default=None, metadata={"help": "dot (raw products) or cosine (normalised, with a learned scale)"}
    )
    similarity_temp: float = field(
        default=0.07,
        metadata={"help": "initial temperature, by which cosines are divided; its inverse is learned"},
    )


def resolve(cfg: Any, name: str) -> Any:
    """Return the value of a field, or that of the preset if it is null."""
    value = getattr(cfg, name)
    return PRESETS[str(cfg.preset)][name] if value is None else value


def positions_see_padding(cfg: Any) -> bool:
    """Return cfg.positions_see_padding; if it is null, the preset's value, or False with padding_exact."""
    if cfg.positions_see_padding is None and resolve(cfg, "padding_exact"):
        return False
    return bool(resolve(cfg, "positions_see_padding"))


def part_errors(cfg: Any, known: Sequence[str]) -> List[str]:
    """Return the errors in init_parts and frozen_parts. known: the parts of the model."""
    errors = []
    for name in ("init_parts", "frozen_parts"):
        parts = list(getattr(cfg, name))
        errors += [
            f"{name} {part!r}: wanted one of {', '.join(known)}" for part in parts if part not in known
        ]
        errors += [f"{name} names {part!r} twice" for part in dict.fromkeys(parts) if parts.count(part) > 1]
    if cfg.init_parts and not cfg.init_from:
        errors.append("init_parts without init_from: give the checkpoint that they are taken from")
    if set(cfg.frozen_parts) >= set(known):
        errors.append("frozen_parts are all parts: nothing would be trained")
    return errors


def image_options(cfg: Any) -> Any:
    """Return the options of the image encoder cfg.image_encoder."""
    return read_options(IMAGE_ENCODERS, encoder_named(str(cfg.image_encoder)), cfg)


def image_errors(cfg: Any) -> List[str]:
    """Return the errors in the image encoder of a configuration."""
    encoder, options = encoder_named(str(cfg.image_encoder)), image_options(cfg)
    errors = encoder.config_errors(options)
    if cfg.image_weights and not hasattr(options, "image_weights"):
        errors.append(
            f"image_weights {cfg.image_weights}: image_encoder={cfg.image_encoder} takes no weights file"
        )
    return errors


def check_config(cfg: Any, more: Sequence[str] = ()) -> None:
    """Check a configuration. more: errors to name too. Raises: ConfigError naming every error at once."""
    mode = resolve(cfg, "extractor_mode")
    errors = [*more, *encoder_errors(cfg, mode, resolve(cfg, "padding_exact"))]
    errors += image_errors(cfg)
    if cfg.positions_see_padding and resolve(cfg, "padding_exact"):
        errors.append("positions_see_padding with padding_exact: set one of the two to false")
    if mode not in ("default", "layer_norm"):
        errors.append(f"extractor_mode {mode!r}: wanted default or layer_norm")
    if resolve(cfg, "similarity") not in ("dot", "cosine"):
        errors.append(f"similarity {cfg.similarity!r}: wanted dot or cosine")
    if cfg.similarity_temp < 1 / MAX_SCALE:
        errors.append(f"similarity_temp {cfg.similarity_temp}: wanted {1 / MAX_SCALE:g} or more")
    if cfg.speech_channels[-1] != cfg.encoder_embed_dim:
        errors.append(
            f"speech_channels end in {cfg.speech_channels[-1]}; "
            f"wanted encoder_embed_dim {cfg.encoder_embed_dim}"
        )
    if len(cfg.speech_strides) != len(cfg.speech_channels):
        errors.append("speech_strides and speech_channels differ in length; give one stride per stage")
    if cfg.shared_layers < 1:
        errors.append(f"shared_layers {cfg.shared_layers}: wanted at least 1")
    layers = getattr(cfg, "encoder_layers", cfg.shared_layers)
    if layers < cfg.shared_layers:
        errors.append(f"encoder_layers {layers} are fewer than shared_layers {cfg.shared_layers}")
    if errors:
        raise ConfigError("model", errors)
