"""A deployment in trouble: real processes that are killed, cut off, filled up and rolled back."""
