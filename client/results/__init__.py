"""The results of a job: downloaded, saved, and shown in the nodes that made them."""
