"""Monitors of the Kubernetes parts of the node, and of the way to the cluster."""
