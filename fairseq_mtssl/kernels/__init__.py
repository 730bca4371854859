"""Fast implementations of the convolutional feature extractor and of transformer layers for CPUs.

`conv_features` and `transformer_layers` choose between them and fairseq's own modules. Some functions have a
C++ extension and an implementation in torch. All give the same results within rounding.
"""
