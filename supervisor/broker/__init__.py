"""The problem detector: fan-in, current state, fan-out."""
