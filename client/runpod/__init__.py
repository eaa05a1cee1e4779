"""The endpoint over HTTP, and the meaning of its statuses."""
