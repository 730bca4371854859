"""The fields of every model that say how its speech encoder is computed, not what."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_mtssl.modules.precision import PRECISIONS


@dataclass
class ComputeConfig(FairseqDataclass):
    fast: bool = field(
        default=True,
        metadata={
            "help": "compute the speech encoder in less time and memory (on a CPU), the same numbers within "
            "rounding; false: fairseq's own forward functions"
        },
    )
    precision: ChoiceEnum(list(PRECISIONS)) = field(  # type: ignore[valid-type]
        default="float32",
        metadata={
            "help": "what the speech encoder multiplies matrices in when it trains: float32; bfloat16 "
            "(weights, norms, residuals, losses, evaluation and features stay in 32 bits); auto: bfloat16 "
            "where the processor or the GPU has instructions for it"
        },
    )
