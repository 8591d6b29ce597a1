"""Conditions, events and annotations of the node, in the Kubernetes API."""
