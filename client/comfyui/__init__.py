"""The ComfyUI that runs this pack: its queue, events and previews, and the access checks of its routes."""
