"""Disks: their file systems and the devices below."""
