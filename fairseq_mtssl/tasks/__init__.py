"""The tasks registered with fairseq: they make datasets, follow schedules and validate."""
