"""The S3 bucket for results: its address, signed requests, uploads and errors."""
