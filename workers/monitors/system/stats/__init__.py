"""The metrics of Node Problem Detector's system-stats-monitor."""
