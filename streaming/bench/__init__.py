"""Measurements of the batched engine. They need torch, numpy and the models, so they run on a bare machine as well."""
