"""The API server, as this node sees it."""
