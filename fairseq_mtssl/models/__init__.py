"""The models registered with fairseq."""
