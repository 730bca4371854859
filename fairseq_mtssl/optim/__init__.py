"""Optimizers and learning-rate schedulers registered with fairseq."""
