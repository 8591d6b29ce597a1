"""The core: forks workers, watches them, and detects problems in what they report."""
