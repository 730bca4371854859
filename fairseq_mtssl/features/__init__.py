"""Frames of utterances: MFCCs, log-mel energies, layers of a model, and all of these as they are stored."""
