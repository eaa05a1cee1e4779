"""The meaning of a repo_list line: its type, its site, the file that the site publishes."""
