"""The options of a speech encoder in three groups: its sizes, its regularisation, and how it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fairseq_mtssl.modules.fbank_augment import FbankAugment
from fairseq_mtssl.renamed import with_new_names

FEATURE_EXTRACTORS = ("waveform", "fbank")


@dataclass(frozen=True)
class EncoderSizes:
    """The options that determine shapes and meaning of an encoder's weights; checkpoints contain them.

    conv_layers: the convolutions in fairseq's notation, (channels, kernel, stride) each.
    extractor_mode: ``default``, a group norm after the first convolution, or ``layer_norm``, a layer norm
        after every one; it has an effect on convolutions over waveforms only.
    conv_bias: the convolutions have a bias.
    dim, ffn_dim, heads, layers: width, width of the feed-forward blocks, attention heads and number of the
        transformer layers.
    conv_pos, conv_pos_groups: kernel, in frames, and groups of the positional convolution.
    pos_conv_depth: layers of the positional convolution; several have a kernel of max(3, conv_pos // depth)
        each (data2vec).
    feature_extractor: ``waveform``, convolutions over samples, or ``fbank``, convolutions over log-mel
        energies (`FbankFeatures`).
    use_cls: a learned CLS token is put before the frames.
    padding_exact: the output for a row does not depend on its padding. This needs the mode ``layer_norm``,
        since a group norm computes its statistics over time.
    positions_see_padding: at padding, the input of the positional convolution is the output of the feature
        extractor, as in the code of arXiv 2306.02972, and not zero, as in fairseq. Not with padding_exact.
    """

    conv_layers: str
    extractor_mode: str
    conv_bias: bool
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    conv_pos: int
    conv_pos_groups: int
    use_cls: bool
    padding_exact: bool
    pos_conv_depth: int = 1
    feature_extractor: str = "waveform"
    positions_see_padding: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the sizes as a dictionary of plain values, as checkpoints contain them."""
        return asdict(self)

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> EncoderSizes:
        """Read the sizes from a checkpoint of this version or of an earlier one, which had fewer."""
        return cls(**with_new_names(values))


@dataclass(frozen=True)
class Regularisation:
    """The options of training that regularise; by default they have no effect.

    dropout, attention_dropout, activation_dropout: rates, [0, 1), in the transformer, of its attention
        weights, and inside its feed-forward blocks.
    input_dropout: rate of the projected features.
    layerdrop: probability of skipping a transformer layer, [0, 1).
    feature_grad_mult: multiplies the gradient into the feature extractor; 0 freezes it.
    augment: changes to the log-mel energies of each clip.
    """

    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    input_dropout: float = 0.0
    layerdrop: float = 0.0
    feature_grad_mult: float = 1.0
    augment: FbankAugment = field(default_factory=FbankAugment)


@dataclass(frozen=True)
class Compute:
    """The options of how an encoder is computed, which do not change the results beyond rounding.

    fast: uses the implementations of `fairseq_mtssl.kernels`; False: fairseq's own forward functions.
    precision: precision of the matrix products in training, one of `precision.PRECISIONS`; the output has the
        type of the weights.
    compiled: uses torch.compile in training (see `kernels.compiling`).
    """

    fast: bool = True
    precision: str = "float32"
    compiled: bool = False
