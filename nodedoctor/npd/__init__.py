"""Node Problem Detector's configuration files: reading them as it does."""
