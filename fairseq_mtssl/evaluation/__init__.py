"""Evaluations of trained models: arrays in, numbers out, without fairseq."""
