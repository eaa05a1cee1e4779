"""Measurements beside a peer's way, one file each; `make bench` runs them and fills docs/benchmarks.md."""
