"""The questions a study may ask, each an addend of a private sum."""
