"""Where the photos come from: layouts on disk, the reader of annotations, the download."""
