"""A job's input files: downloaded to this disk and linked into ComfyUI's input folder."""
