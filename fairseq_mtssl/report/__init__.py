"""Pictures of a run: files and numbers in; PNG, SVG and HTML out. Nothing here knows fairseq.

matplotlib is an extra (`pip install "fairseq-mtssl[report]"`), asked for only when a picture is drawn.
"""
