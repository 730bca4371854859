"""Manifests, audio, images, pairs and datasets: everything that turns files into batches."""
