"""How a map is computed: tensors in, tensors out."""
