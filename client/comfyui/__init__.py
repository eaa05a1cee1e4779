"""The ComfyUI that runs this pack: its queue, its events, its previews and who may call its routes."""
