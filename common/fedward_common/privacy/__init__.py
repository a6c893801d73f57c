"""Differential privacy (PROTOCOL part B): parameters, noise, sampling and accounting."""
