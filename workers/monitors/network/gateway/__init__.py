"""Whether the next hops of this node are there."""
