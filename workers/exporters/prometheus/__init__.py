"""The metrics endpoint."""
