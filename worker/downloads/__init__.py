"""Bytes to disk: parallel, verified downloads that appear atomically or not at all."""
