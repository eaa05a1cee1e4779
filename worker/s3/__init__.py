"""The S3 bucket: its address, signed requests, uploads and what its refusals mean."""
