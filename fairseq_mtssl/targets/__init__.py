"""What the student must predict: cluster labels made beforehand, layer averages of a slow copy of itself."""
