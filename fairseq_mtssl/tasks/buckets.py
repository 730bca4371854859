"""The configuration of the widths of training batches, which several tasks share."""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass


@dataclass
class BucketConfig(FairseqDataclass):
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": "number of lengths to which training batches are padded (quantiles of the clips' "
            "lengths), for model.compile, which compiles code for each; with max_tokens, padding counts. "
            "0: pad to multiples of 0.2 s"
        },
    )
