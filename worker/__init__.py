"""The rooms under handler.py, model_manager.py and comfy_runner.py; no module in here imports those three."""

__version__ = "0.1.0"
