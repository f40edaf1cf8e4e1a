"""The computation of maps: tensors in, tensors out."""
