"""The process that owns a device: read, decode, purify, classify, encode, write."""
