"""The widths of training batches in the configurations of tasks."""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass


@dataclass
class BucketConfig(FairseqDataclass):
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": "pad training batches to one of so many lengths, quantiles of the clips', for "
            "model.compile, which makes code for each; with max_tokens they count as long as they are "
            "padded. 0: to a multiple of 0.2 s"
        },
    )
