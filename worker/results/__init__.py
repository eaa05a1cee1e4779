"""What a prompt saved: read, converted, measured and delivered."""
