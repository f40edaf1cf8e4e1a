"""What comes in: the images of a cohort, and what is known of them."""
