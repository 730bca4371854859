"""What the student must predict: features, codebooks, labels and their quality; layers of a slow teacher."""
