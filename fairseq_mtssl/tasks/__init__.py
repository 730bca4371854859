"""Tasks registered with fairseq: datasets, phases, validation by retrieval."""
