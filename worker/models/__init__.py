"""The models folder: what is there, what a job needs, what may be deleted."""
