"""Whether other nodes can be reached."""
