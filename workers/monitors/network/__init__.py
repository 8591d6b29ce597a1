"""Monitors of what the machine reaches."""
