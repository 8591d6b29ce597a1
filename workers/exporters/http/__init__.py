"""The health API."""
