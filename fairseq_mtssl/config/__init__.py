"""The recipes, one YAML each. A Python package, so that Hydra finds them as `pkg://fairseq_mtssl.config`."""
