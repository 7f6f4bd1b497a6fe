"""Measurements: each module is run as `python -m benchmarks.NAME`, checks what it times and says what it ran on."""
