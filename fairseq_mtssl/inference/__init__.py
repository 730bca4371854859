"""Clips and images in; embeddings, layers or text out: in batches, with a progress bar."""
