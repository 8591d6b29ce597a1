"""Where the broker's state is shown."""
