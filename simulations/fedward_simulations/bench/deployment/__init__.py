"""A deployment measured: rounds over TLS with the real processes, beside stock Flower."""
