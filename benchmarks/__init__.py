"""Speed of vitlab as ratios against named peers: `make bench`."""
