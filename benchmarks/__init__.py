"""Prints the figures that the design promises; none of them is a test, since machines are noisy."""
