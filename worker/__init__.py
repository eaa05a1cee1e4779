"""What handler.py, model_manager.py and comfy_runner.py stand on; nothing in here imports those three."""
