"""The privacy audit of a whole federation, at the server's seat (B8)."""
