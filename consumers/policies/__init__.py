"""One judgement a file."""
