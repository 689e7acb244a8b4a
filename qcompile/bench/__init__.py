"""Benchmark reports: what is measured, how it is kept, compared, and shown."""
