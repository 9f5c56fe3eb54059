"""An HTTP server for encoding, decoding and detection, with a web page; needs the extra `web`."""
