"""What readers see runs: pages, readmes, notebooks, the demo, benchmarks, pictures."""
