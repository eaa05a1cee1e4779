"""The files that a job sends: brought to this disk and placed where ComfyUI looks."""
