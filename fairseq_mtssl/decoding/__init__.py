"""From the log-probabilities of CTC to words: arrays in, text out. Nothing here knows fairseq."""
