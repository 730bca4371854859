"""The criterions registered with fairseq: they weight and sum losses and log them."""
