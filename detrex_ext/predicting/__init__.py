"""What goes into a predictor and comes out of it: files, video, cameras, slices of large images, answers."""
