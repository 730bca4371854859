"""Frames of utterances: MFCCs, log-mel energies and layers of a model, computed or stored."""
