"""Triton kernels, each the twin of plain torch elsewhere in `kernels`. Importing one needs triton."""
