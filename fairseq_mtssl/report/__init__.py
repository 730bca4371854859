"""Figures, tables and pages made from the files of trainings and evaluations. Nothing here imports fairseq.

Drawing needs matplotlib, which `pip install "fairseq-mtssl[report]"` installs.
"""
