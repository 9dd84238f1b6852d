"""Features as images: PCA, attention, similarity, parts and masks on one grid; curves of runs."""
