"""Kernels for the CPU behind two doors, the convolutional features and the transformer layer.

Each has up to three implementations with the same results within rounding: a C++ extension, torch functions,
and fairseq's own module.
"""
