"""The edges of RunPod's SDK: what it takes from the worker, and what the worker mends in it."""
