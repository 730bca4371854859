"""From files to batches: manifests, audio, images, pairs, collation."""
