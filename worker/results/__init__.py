"""A prompt's files: chosen, converted, described and delivered."""
