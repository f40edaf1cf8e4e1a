"""The images of a cohort come in here: what there is, and what is known of each."""
