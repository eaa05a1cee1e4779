"""What Remote Config saves: endpoint, key, options and bucket."""
