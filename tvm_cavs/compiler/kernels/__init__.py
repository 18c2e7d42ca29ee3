"""Specifications -> kernels as TIR, by family of targets."""
