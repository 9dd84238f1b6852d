"""Decision-stream calibration of a classifier."""
