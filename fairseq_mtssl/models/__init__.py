"""Models registered with fairseq: `vgs_retrieval` and `joint_ssl_vgs`."""
