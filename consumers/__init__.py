"""What reads the log: the judge and the metrics store."""
