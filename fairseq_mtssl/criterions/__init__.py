"""Criterions registered with fairseq: weigh, sum, log."""
