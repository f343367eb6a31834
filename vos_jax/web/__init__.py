"""The web page: one's own video, segmented in the browser."""
