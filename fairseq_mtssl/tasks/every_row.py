"""What all tasks here have in common: no row of a split is left out."""

from typing import Any

from fairseq.tasks import FairseqTask


class EveryRowTask(FairseqTask):
    """With required_batch_size_multiple above 1 (8, unless fairseq-validate is told otherwise) fairseq drops
    a last batch that is no multiple of it, and says nothing. Here batches have any size.
    """

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, with required_batch_size_multiple=1; its callers give that option by name."""
        return super().get_batch_iterator(dataset, *args, **{**kwargs, "required_batch_size_multiple": 1})
