"""Whole slides: pictures of many gigabytes, of which the tiles that hold tissue are read, as one bag."""
