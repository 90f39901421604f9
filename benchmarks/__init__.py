"""``python -m benchmarks``: what dropout costs, compared with a copy and with other libraries."""
