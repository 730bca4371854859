"""The fields of the speech encoder that configurations of models share, and the encoder built from them."""

from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from fairseq_mtssl.frames import parse_conv_layers
from fairseq_mtssl.modules import fbank_features
from fairseq_mtssl.modules.encoder_options import FEATURE_EXTRACTORS, Compute, EncoderSizes, Regularisation
from fairseq_mtssl.modules.fbank_augment import FbankAugment
from fairseq_mtssl.modules.precision import PRECISIONS
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.renamed import earlier_name


@dataclass
class ComputeConfig(FairseqDataclass):
    """The fields of how a speech encoder is computed, which do not change its results beyond rounding."""

    fast: bool = field(
        default=True,
        metadata={
            "help": "compute the speech encoder in less time and memory on a CPU, with the same results "
            "within rounding; false: by fairseq's own forward functions"
        },
    )
    precision: ChoiceEnum(list(PRECISIONS)) = field(  # type: ignore[valid-type]
        default="float32",
        metadata={
            "help": "precision of the speech encoder's matrix products in training: float32; bfloat16 "
            "(weights, norms, residuals, losses, evaluation and features stay in 32 bits); auto: bfloat16 "
            "if the processor or the GPU has instructions for it"
        },
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "in training compile transformer layers, and on a GPU convolutions, with torch.compile; "
            "set task.num_batch_buckets too, since code is compiled for each shape of a batch. Slower on a "
            "CPU (0.84 to 0.97 times as fast, after minutes of compiling); needs torch 2.5"
        },
    )


@dataclass
class WaveformConfig(FairseqDataclass):
    """The field of the normalisation of waveforms, with the name under which fairseq reads it."""

    normalize: Optional[bool] = field(
        default=None,
        metadata={
            "help": "give waveforms zero mean and unit variance; null: as in the training of the checkpoint "
            "from which this one starts (fairseq's wav2vec 2.0 Base: false), else true. The value is filled "
            "in and saved; to continue a training with false without that checkpoint, give false"
        },
    )


@dataclass
class EncoderConfig(WaveformConfig, ComputeConfig):
    """The fields of a speech encoder trained from scratch whose defaults are the same in all models."""

    feature_extractor: ChoiceEnum(list(FEATURE_EXTRACTORS)) = field(  # type: ignore[valid-type]
        default="waveform",
        metadata={
            "help": "input of the transformer: waveform (wav2vec 2.0's convolutions over samples) or fbank "
            "(log-mel energies at 100 Hz and light convolutions, with conv_feature_layers such as "
            f"{fbank_features.EXAMPLE}, which gives 25 Hz)"
        },
    )
    front_end: Any = earlier_name("front_end")
    conv_feature_layers: str = field(
        default="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        metadata={
            "help": "convolutions of the feature extractor as (channels, kernel, stride) each; with "
            "feature_extractor=fbank first (mel bins, window, hop), then (channels, kernel, stride, padding)"
        },
    )
    conv_bias: bool = field(default=False, metadata={"help": "give the convolutions a bias"})
    fbank_warp: float = field(
        default=0.0,
        metadata={
            "help": "p, [0, 0.5]: in training stretch the frequency axis of each clip by a factor drawn from "
            "[1-p, 1+p], which imitates other vocal tracts; with feature_extractor=fbank"
        },
    )
    fbank_mask_bins: int = field(
        default=0,
        metadata={
            "help": "in training mask up to this many neighbouring mel bins; with feature_extractor=fbank"
        },
    )
    encoder_embed_dim: int = field(default=768, metadata={"help": "width of the speech transformer"})
    encoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of its feed-forward layers"})
    encoder_attention_heads: int = field(default=12, metadata={"help": "its attention heads"})
    conv_pos_groups: int = field(default=16, metadata={"help": "groups of the positional convolution"})
    dropout: float = field(default=0.1, metadata={"help": "dropout in every transformer, [0, 1)"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights, [0, 1)"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the FFN, [0, 1)"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "multiplies the gradient into the convolutions; 0 freezes them"}
    )


def encoder_errors(cfg: Any, extractor_mode: str, padding_exact: bool) -> List[str]:
    """Return the errors in the fields of an EncoderConfig.

    extractor_mode, padding_exact: as in `build_speech_encoder`.
    Raises: ConfigError for conv_feature_layers that are no list of convolutions.
    """
    dim, heads, errors = cfg.encoder_embed_dim, cfg.encoder_attention_heads, []
    if dim % heads:
        errors.append(
            f"encoder_embed_dim {dim} is no multiple of the {heads} encoder_attention_heads; change either"
        )
    layers = parse_conv_layers(cfg.conv_feature_layers)
    augment = augment_of(cfg)
    if str(cfg.feature_extractor) == "fbank":
        return [*errors, *fbank_features.fbank_errors(layers), *augment.errors(layers[0][0])]
    if augment != FbankAugment():
        got = f"fbank_warp {cfg.fbank_warp} and fbank_mask_bins {cfg.fbank_mask_bins}"
        errors.append(f"{got} with feature_extractor=waveform: wanted 0, or feature_extractor=fbank")
    if any(len(layer) > 3 for layer in layers):
        got = f"conv_feature_layers {cfg.conv_feature_layers} with feature_extractor=waveform"
        errors.append(f"{got}: wanted (channels, kernel, stride), without padding")
    if padding_exact and extractor_mode == "default":
        got = "padding_exact with extractor_mode=default"
        errors.append(f"{got}: its group norm sees the padding; take layer_norm")
    return errors


def build_speech_encoder(
    cfg: Any,
    *,
    layers: int,
    use_cls: bool,
    extractor_mode: str,
    padding_exact: bool,
    positions_see_padding: bool = False,
) -> SpeechEncoder:
    """Build the speech encoder that a configuration describes.

    cfg: an EncoderConfig that also has the fields conv_pos, pos_conv_depth, dropout_input and
    encoder_layerdrop, whose defaults differ between models. The other arguments are fields of EncoderSizes
    whose values depend on a preset or on the kind of model.
    """
    sizes = EncoderSizes(
        conv_layers=cfg.conv_feature_layers,
        extractor_mode=extractor_mode,
        conv_bias=cfg.conv_bias,
        dim=cfg.encoder_embed_dim,
        ffn_dim=cfg.encoder_ffn_embed_dim,
        heads=cfg.encoder_attention_heads,
        layers=layers,
        conv_pos=cfg.conv_pos,
        conv_pos_groups=cfg.conv_pos_groups,
        pos_conv_depth=cfg.pos_conv_depth,
        feature_extractor=str(cfg.feature_extractor),
        use_cls=use_cls,
        padding_exact=padding_exact,
        positions_see_padding=positions_see_padding,
    )
    regularisation = regularisation_of(cfg, cfg.encoder_layerdrop, augment_of(cfg))
    return SpeechEncoder(sizes, regularisation, compute_of(cfg))


def regularisation_of(cfg: Any, layerdrop: float, augment: Optional[FbankAugment] = None) -> Regularisation:
    """Return the regularisation of a configuration; the field of layerdrop has different names in models."""
    return Regularisation(
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        input_dropout=cfg.dropout_input,
        layerdrop=layerdrop,
        feature_grad_mult=cfg.feature_grad_mult,
        augment=augment or FbankAugment(),
    )


def augment_of(cfg: Any) -> FbankAugment:
    """Return the augmentation of log-mel energies of an EncoderConfig."""
    return FbankAugment(cfg.fbank_warp, cfg.fbank_mask_bins)


def compute_of(cfg: Any) -> Compute:
    """Return the values of a ComputeConfig."""
    return Compute(cfg.fast, str(cfg.precision), cfg.compile)


def clip_lengths(source: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Return the lengths of clips, (B,) samples. source: (B, S); padding_mask: (B, S) bool or None."""
    if padding_mask is not None:
        return (~padding_mask).sum(1)
    rows, samples = source.shape
    return source.new_full((rows,), samples, dtype=torch.long)
