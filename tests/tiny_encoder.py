"""The speech encoders of the tests: the smallest that train, and one of the sizes of fairseq's own models."""

from __future__ import annotations

from typing import Any

from fairseq_mtssl.frames import parse_conv_layers
from fairseq_mtssl.modules.encoder_options import EncoderSizes

WAVEFORM = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
"""Convolutions over samples: 50 frames a second, of 400 samples each."""
WAVEFORM_LAYERS = parse_conv_layers(WAVEFORM)
FBANK = "[(80,400,160)] + [(16,5,2,2)] * 2"
"""Convolutions over 80 log-mel energies: 25 frames a second, of 400 samples each."""
FBANK_LAYERS = parse_conv_layers(FBANK)
FROM_FBANK: dict[str, Any] = {"feature_extractor": "fbank", "conv_feature_layers": FBANK, "conv_bias": True}
ENCODER: dict[str, Any] = {
    "conv_feature_layers": WAVEFORM,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_layers": 3,
    "conv_pos_groups": 2,
}
NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0}
FAIRSEQ_ENCODER: dict[str, Any] = {
    "conv_feature_layers": WAVEFORM,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 3,
    "encoder_layers": 3,
    "conv_pos": 15,
    "conv_pos_groups": 3,
}
"""Fields of the configurations of fairseq's wav2vec2, hubert and data2vec_audio."""


def encoder_sizes(fairseq: dict[str, Any], extractor_mode: str, **changes: Any) -> EncoderSizes:
    """The sizes of our encoder that correspond to these fields of a fairseq model's configuration."""
    sizes = {
        "conv_layers": fairseq["conv_feature_layers"],
        "extractor_mode": extractor_mode,
        "conv_bias": False,
        "dim": fairseq["encoder_embed_dim"],
        "ffn_dim": fairseq["encoder_ffn_embed_dim"],
        "heads": fairseq["encoder_attention_heads"],
        "layers": fairseq["encoder_layers"],
        "conv_pos": fairseq["conv_pos"],
        "conv_pos_groups": fairseq["conv_pos_groups"],
        "use_cls": False,
        "padding_exact": False,
    }
    return EncoderSizes(**{**sizes, **changes})
