"""The settings that Remote Config saves: endpoint, key, options and bucket."""
