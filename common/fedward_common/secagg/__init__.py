"""The private sum: secure aggregation as sans-IO state machines (PROTOCOL.md, part A)."""
