"""Decoders that turn the log-probabilities of CTC into words: arrays in, text out, without fairseq."""
