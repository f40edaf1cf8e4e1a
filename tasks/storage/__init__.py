"""The places of bytes, and who may write there."""
