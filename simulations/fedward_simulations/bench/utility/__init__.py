"""``bench utility``: how good the models are that privacy leaves."""
