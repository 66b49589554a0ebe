"""The process that the user started: it hands out batches and takes in rows."""
