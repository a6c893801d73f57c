"""What a hospital computes for a gradient step: augmented, clipped, summed per patient."""
