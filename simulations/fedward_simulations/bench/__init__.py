"""What fedward's parts cost, measured beside what others use for the same purpose."""
