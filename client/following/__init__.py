"""A submitted job until it ends: its status by websocket or polling, told to the page."""
