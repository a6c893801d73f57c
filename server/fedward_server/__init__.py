"""The coordinator: relays, adds up, and steps the shared model."""
