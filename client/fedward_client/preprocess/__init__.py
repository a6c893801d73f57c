"""From a cleaned instance to an image in [0, 1], by modality. Parameters come from the plan."""
