"""A submitted job until it ends: its statuses by websocket or polling, and its progress in the page."""
