"""What exists: the data assets, a file for each subject, read from raw to curated."""
