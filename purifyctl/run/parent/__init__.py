"""The process that the user started: it gives batches to workers and takes their rows."""
