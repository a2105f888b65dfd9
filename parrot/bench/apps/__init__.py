"""`parrot bench apps`: applications on running servers, whole in Parrot and request by request elsewhere."""
