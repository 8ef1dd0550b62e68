"""How messages travel: memory, local, and the spool of a job."""
