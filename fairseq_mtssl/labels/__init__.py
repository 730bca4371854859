"""Cluster labels: their files and folders, k-means, and the pipeline that makes them."""
