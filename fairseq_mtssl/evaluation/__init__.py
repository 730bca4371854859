"""Measures of a trained model: arrays in, numbers out. Nothing here knows fairseq."""
