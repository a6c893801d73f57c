"""Is what leaves as noisy as the plan claims? Measured on the code that computes it (B8)."""
