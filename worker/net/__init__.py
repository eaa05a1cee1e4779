"""HTTP out: connections, addresses, retries and redaction. Independent of models, jobs and ComfyUI."""
