"""What serves the laboratory work: safe files and errors, hardware, watchers of a training, progress."""
