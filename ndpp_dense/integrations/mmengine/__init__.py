"""ND++ in MMEngine: what every project on it can use, segmentation or not."""
