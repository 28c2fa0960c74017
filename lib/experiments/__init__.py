"""What was measured: run records in, the paper's tables and figures out."""
