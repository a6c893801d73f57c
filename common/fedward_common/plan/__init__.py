"""The plan: the signed, frozen description of a study."""
