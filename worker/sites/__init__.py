"""What a line of repo_list means: its type, the site it names, the file the site publishes."""
