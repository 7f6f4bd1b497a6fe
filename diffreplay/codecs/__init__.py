"""Codecs that turn frames into bytes and back."""
