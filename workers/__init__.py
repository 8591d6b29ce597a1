"""What runs in forked worker processes, and how a process becomes one."""
