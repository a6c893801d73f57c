"""``fedward-server``: what the coordinator of a study runs."""

from fedward_server.cli.app import main

__all__ = ["main"]
