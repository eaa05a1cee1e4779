"""The RunPod API on one machine, in front of the same worker through the same SDK loop (``python -m endpoint``)."""
