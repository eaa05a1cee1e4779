"""What a job brought back: saved, and shown in the node that made it."""
