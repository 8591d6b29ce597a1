"""The configuration: its classes, its layers, its faults."""
