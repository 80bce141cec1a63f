"""Bytes between client and server: frames, the gRPC stream, and the byte ledger."""
