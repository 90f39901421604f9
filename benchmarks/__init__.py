"""``python -m benchmarks``: what dropout costs, beside a copy and beside other libraries."""
