"""The long-running process: lanes, state, gates, edge, supervisor, configuration."""
