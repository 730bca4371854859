"""What a speech encoder is made of, in three groups: its sizes, its regularisation, how it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fairseq_mtssl.modules.fbank_augment import FbankAugment
from fairseq_mtssl.renamed import with_new_names

FEATURE_EXTRACTORS = ("waveform", "fbank")


@dataclass(frozen=True)
class EncoderSizes:
    """What the shapes and the meaning of an encoder's weights depend on. Checkpoints hold it as a dictionary.

    conv_layers: the convolutions in fairseq's notation, (channels, kernel, stride) each.
    extractor_mode: ``default``, a group norm after the first convolution, or ``layer_norm`` after every one;
        of convolutions over waveforms only.
    conv_bias: the convolutions have a bias.
    dim, ffn_dim, heads, layers: width, width of the feed-forward blocks, attention heads and number of the
        transformer layers.
    conv_pos, conv_pos_groups: kernel, in frames, and groups of the positional convolution.
    pos_conv_depth: layers of the positional convolution; several have a kernel of max(3, conv_pos // depth)
        each (data2vec).
    feature_extractor: ``waveform``, convolutions over samples, or ``fbank``, convolutions over log-mel
        energies (`FbankFeatures`).
    use_cls: a learned CLS token is put before the frames.
    padding_exact: nothing that is computed for a row depends on its padding. This needs ``layer_norm`` mode,
        since a group norm takes its statistics over time.
    positions_see_padding: the positional convolution is given what the feature extractor makes of padding, as
        in the code of arXiv 2306.02972, instead of zeros, as in fairseq. Not with padding_exact.
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
        """As checkpoints hold the sizes, a dictionary of plain values."""
        return asdict(self)

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> EncoderSizes:
        """The sizes that a checkpoint holds, of this version or of an earlier one, which had fewer."""
        return cls(**with_new_names(values))


@dataclass(frozen=True)
class Regularisation:
    """What is done in training alone; by default nothing.

    dropout, attention_dropout, activation_dropout: rates, [0, 1), in the transformer, of its attention
        weights, and inside its feed-forward blocks.
    input_dropout: rate of the projected features. layerdrop: chance to skip a transformer layer, [0, 1).
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
    """How an encoder is computed; the results are the same within rounding.

    fast: use the implementations of `fairseq_mtssl.kernels`; False: fairseq's own forward functions.
    precision: of the matrix products in training, one of `precision.PRECISIONS`; the output has the type of
        the weights.
    compiled: use torch.compile in training (see `kernels.compiling`).
    """

    fast: bool = True
    precision: str = "float32"
    compiled: bool = False
