"""Support of ``benchmarks/gateway.py``: a mock engine and a load generator in C, the systems
that are measured, and the runs."""
