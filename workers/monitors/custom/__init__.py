"""Monitors that run other people's checks."""
