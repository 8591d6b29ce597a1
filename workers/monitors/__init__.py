"""The built-in monitors."""
