"""From a queued prompt to a submitted job: the prompt, its input files, its estimated length."""
