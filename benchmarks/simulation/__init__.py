"""A discrete-event simulation of a serverless endpoint: the cost of its settings and its callers' waits."""
