"""HTTP out: connections, addresses, retries and redaction. Knows nothing of models, jobs or ComfyUI."""
