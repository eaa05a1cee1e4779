"""ComfyUI: its process, its HTTP and websocket, and one prompt from submission to saved files."""
