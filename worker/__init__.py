"""What handler.py, model_manager.py and comfy_runner.py stand on; nothing in here imports those three."""

__version__ = "0.1.0"
