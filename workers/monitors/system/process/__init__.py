"""Processes: what state they are in, which must run, and the tables that they fill."""
