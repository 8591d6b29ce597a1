"""Monitors of the machine itself."""
