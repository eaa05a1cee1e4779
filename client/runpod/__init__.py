"""The endpoint over HTTP, and what its answers mean."""
