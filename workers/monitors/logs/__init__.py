"""Monitors of what the machine writes about itself."""
