"""What hospitals and the coordinator must agree on, byte for byte."""

__version__ = "0.1.0"
