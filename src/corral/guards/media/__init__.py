"""Guards of images and clips: frames are sampled, scored one by one, and pooled into one verdict."""
