"""How messages travel between the agent's processes."""
