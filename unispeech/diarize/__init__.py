"""From local diarization of chunks to who speaks when in a whole recording."""
