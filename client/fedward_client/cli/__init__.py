"""``fedward-client``: what the operator of a hospital runs."""

from fedward_client.cli.app import main

__all__ = ["main"]
