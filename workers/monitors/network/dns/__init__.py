"""The monitor of DNS: what the machine is set to ask, asking it, and what the answers mean."""
