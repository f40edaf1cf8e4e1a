"""A demo cohort with known truth: real anatomy (the MNI152 template), planted lesions."""
