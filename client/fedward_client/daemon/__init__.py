"""The hospital's daemon: it asks the coordinator's gateway for orders and answers them."""
