"""Products, weight gradients, packing and sums on a CPU."""
