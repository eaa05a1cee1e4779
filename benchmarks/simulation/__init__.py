"""A discrete-event simulation of a serverless endpoint: what settings cost, and how long callers wait. No network."""
