"""Neural building blocks: tensors and plain arguments in, tensors out; no fairseq configuration."""
