"""Something in the world becomes MetricChunks."""
