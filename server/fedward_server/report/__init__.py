"""What a run leaves for people: facts in `model`, the page in `page`, the files in `release`."""
