"""What the student must predict: features, codebooks, labels, their files and their quality."""
